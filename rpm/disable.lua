-- %preun, the last of it: nothing is begun any more.
systemctl("--no-reload", "disable", "sxm-recover.service")
if posix.stat("/run/systemd/system", "type") == "directory" then
    systemctl("stop", "sxm-recover.service")
end
