-- systemctl, for scriptlets that need no shell: what %systemd_post, %systemd_preun and %systemd_postun of systemd-rpm-macros do. An empty root,
-- which a test or an installer fills, has none; and one that nothing is booted from has nothing to reload.
local function systemctl(...)
    local program = "/usr/bin/systemctl"
    if not posix.access(program, "x") then
        return
    end
    if rpm.execute then
        rpm.execute(program, ...)
        return
    end
    -- rpm 4.11, in XCP-ng 8.3
    local child = posix.fork()
    if child == 0 then
        posix.exec(program, ...)
        os.exit(127)
    end
    posix.wait(child)
end

local function reload()
    if posix.stat("/run/systemd/system", "type") == "directory" then
        systemctl("daemon-reload")
    end
end
