-- %post: an upgrade leaves it to the administrator what is enabled.
if tonumber(arg[2]) == 1 then
    systemctl("--no-reload", "preset", "sxm-recover.service")
end
reload()
