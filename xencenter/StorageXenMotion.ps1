# SPDX-License-Identifier: LGPL-2.1-only
# The entries of Storage XenMotion in XenCenter's menu of a VM: each calls the xapi plugin sxm.py on the pool's master.
#
# XenCenter has loaded XenServerPSModule when it reads this, and has set $ObjInfoArray: for each object that is selected
# its url, sessionRef, class and objUuid (xenadmin: XenServerPowerShellCmd.cs). Then it calls the function that the
# .xcplugin.xml names. For Windows PowerShell 5.1.

# The UUID of the one VM that is selected, with XenCenter's own session as the default one.
function Connect-Sxm {
    if (@($ObjInfoArray).Count -ne 1 -or $ObjInfoArray[0].class -ne 'VM') {
        throw 'Select one VM.'
    }
    Connect-XenServer -Url $ObjInfoArray[0].url -OpaqueRef $ObjInfoArray[0].sessionRef -SetDefaultSession | Out-Null
    return $ObjInfoArray[0].objUuid
}

# What a function of the plugin answers, on the master, which asks the other hosts by itself.
function Invoke-Sxm([string] $Function, [hashtable] $Arguments) {
    $master = (Get-XenPool).master
    $answer = Invoke-XenHost -Ref $master -XenAction CallPlugin -Plugin 'sxm.py' -Fn $Function -Args $Arguments -PassThru
    return $answer | ConvertFrom-Json
}

# Shows a line. What others have called a VM, an SR or a disk is in it: without what a terminal obeys.
function Write-Sxm([string] $Text, [string] $Colour) {
    $look = if ($Colour) { @{ ForegroundColor = $Colour } } else { @{} }
    Write-Host ($Text -replace '[\p{Cc}\p{Cf}]', '?') @look
}

# Runs an entry: an error is shown, and the window stays until it has been read.
function Invoke-SxmEntry([scriptblock] $Entry) {
    try {
        & $Entry (Connect-Sxm)
    }
    catch {
        $failure = $_.Exception.GetBaseException()
        # of the plugin's own: its code and details (Failure.cs)
        $told = if ($failure.ErrorDescription) { $failure.ErrorDescription -join ': ' } else { $failure.Message }
        Write-Sxm "It failed: $told" Red
    }
    Read-Host 'Press Enter to close this window' | Out-Null
}

# Moves all disks of the VM to an SR of its pool that is picked from a list.
function Start-SxmMove {
    Invoke-SxmEntry {
        param($vm)
        $srs = Get-XenSR | Where-Object { $_.content_type -ne 'iso' -and $_.type -ne 'udev' }
        $columns = @(
            @{ Name = 'Name'; Expression = { $_.name_label } }
            @{ Name = 'Type'; Expression = { $_.type } }
            @{ Name = 'Free GiB'; Expression = { [math]::Round(($_.physical_size - $_.physical_utilisation) / 1gb, 1) } }
            @{ Name = 'UUID'; Expression = { $_.uuid } }
        )
        $sr = $srs | Select-Object $columns | Out-GridView -Title 'Where do the disks of the VM go?' -OutputMode Single
        if (-not $sr) {
            Write-Sxm 'Nothing was chosen, and nothing has been changed.'
            return
        }
        $given = @{ 'vm' = $vm; 'destination-sr-uuid' = $sr.UUID }
        $plan = (Invoke-Sxm 'migrate' ($given + @{ 'dry-run' = 'true' })).plan
        foreach ($disk in $plan.disks) {
            Write-Sxm ('{0}  {1:N1} GiB of data, to {2}' -f $disk.name_label, ($disk.data / 1gb), $sr.Name)
        }
        foreach ($note in $plan.notes) {
            Write-Sxm "Note: $note"
        }
        foreach ($warning in $plan.warnings) {
            Write-Sxm "Warning: $warning" Yellow
        }
        if ((Read-Host 'Type yes to begin') -ne 'yes') {
            Write-Sxm 'Nothing has been changed.'
            return
        }
        $migration = (Invoke-Sxm 'migrate' ($given + @{ 'wait' = 'false' })).migration
        Write-Sxm "Migration $migration has begun. It goes on if this window is closed."
        Watch-Sxm $vm
    }
}

# Shows the migration of the VM that runs, else the latest.
function Show-SxmMigration {
    Invoke-SxmEntry {
        param($vm)
        Watch-Sxm $vm
    }
}

# Takes the migration of the VM back.
function Stop-SxmMigration {
    Invoke-SxmEntry {
        param($vm)
        $status = Invoke-Sxm 'status' @{ 'vm' = $vm }
        Write-Sxm "Migration $($status.migration) of VM $($status.vm_name): $($status.state), $($status.doing)"
        if ((Read-Host 'Type yes to take it back') -ne 'yes') {
            Write-Sxm 'It goes on.'
            return
        }
        $answer = Invoke-Sxm 'cancel' @{ 'migration' = $status.migration }
        Write-Sxm $answer.state
    }
}

# A line whenever something has changed, until the migration ends.
function Watch-Sxm([string] $Vm) {
    $told = ''
    do {
        $status = Invoke-Sxm 'status' @{ 'vm' = $Vm }
        $line = '{0}: {1}; {2:N1} of {3:N1} GiB' -f $status.state, $status.doing, ($status.bytes_moved / 1gb), ($status.bytes_to_move / 1gb)
        if ($line -ne $told) {
            Write-Sxm $line
            $told = $line
        }
        if ($status.state -eq 'running') {
            Start-Sleep -Seconds 2
        }
    } while ($status.state -eq 'running')
    foreach ($warning in $status.warnings) {
        Write-Sxm "Warning: $warning" Yellow
    }
    if ($status.error) {
        Write-Sxm ($status.error -join ': ') Red
    }
}
