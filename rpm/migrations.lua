-- Which migrations the journals of this host tell of (journal/journal.py: JSON, a line for each field, indented by one). In Lua, since rpm has that built in.

-- The ids of those where `pattern` is found. A journal of the receiving side is there for as long as its migration goes on.
local function journals_with(pattern)
    local found = {}
    for _, name in ipairs(posix.dir("/var/lib/sxm") or {}) do
        local receiving = name:match("^receive%-(%x+%-%x+%-%x+%-%x+%-%x+)%.json$")
        local id = receiving or name:match("^(%x+%-%x+%-%x+%-%x+%-%x+)%.json$")
        local file = id and io.open("/var/lib/sxm/" .. name)
        if file then
            if receiving or file:read("*a"):find(pattern) then
                found[#found + 1] = id
            end
            file:close()
        end
    end
    return table.concat(found, ", ")
end

-- Fail, and so have rpm leave everything as it is, if a migration is under way, or was interrupted.
local function refuse_while_running(what)
    local running = journals_with('\n "state": "running"')
    if running ~= "" then
        error("Storage XenMotion is not " .. what .. " while a migration runs, or was interrupted: " .. running ..
              ". Wait for its end, or end it: xe host-call-plugin host-uuid=HOST plugin=sxm.py fn=cancel or fn=recover, args:migration=ID")
    end
end
