-- %preun: nothing that only this package can clear away is left behind, and then no file either.
if tonumber(arg[2]) ~= 0 then
    return  -- an upgrade: what is installed has looked, before
end
refuse_while_running("removed")
local left = journals_with('\n "left": %[[^%]]')
if left ~= "" then
    error("Storage XenMotion is not removed: something is left of migration " .. left ..
          ", and nothing else would clear it away. Have it cleared away: xe host-call-plugin host-uuid=HOST plugin=sxm.py fn=recover args:migration=ID")
end

-- Remove the files in `directory` whose names match `pattern`, with `deep` also below it, and what is empty then of __pycache__.
local function clear(directory, pattern, deep)
    for _, name in ipairs(posix.dir(directory) or {}) do
        local path = directory .. "/" .. name
        local kind = name ~= "." and name ~= ".." and posix.stat(path, "type")
        if kind == "directory" then
            if deep then
                clear(path, pattern, deep)
            end
            if name == "__pycache__" then
                posix.rmdir(path)
            end
        elseif kind and name:find(pattern) then
            os.remove(path)
        end
    end
end

-- Before rpm comes to the directories that they are in.
for _, site in ipairs({"/usr/lib/python3.6/site-packages", "/usr/lib/python3.11/site-packages"}) do
    clear(site .. "/storage_motion", "%.pyc$", true)
end
clear("/opt/xensource/sm/__pycache__", "^MirrorSR%..*pyc$", false)
clear("/opt/xensource/sm/__pycache__", "^mirror_lib%..*pyc$", false)
clear("/var/lib/sxm", "", false)
clear("/var/log", "^sxm%.log[.-]", false)   -- what logrotate has made of the log
