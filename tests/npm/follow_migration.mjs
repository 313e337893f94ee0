// node follow_migration.mjs XEN_API URL VM ARGUMENTS: has the plugin move the VM (its UUID), by the stock client, and follows its task by events.
// XEN_API: where the client lies; ARGUMENTS: a JSON object, the plugin's. The password of root comes in $PASSWORD.
// Prints a JSON object a line: what it saw of the pool, what the plugin answered, each progress of the task, how it ended.
import { pathToFileURL } from 'node:url'

const [library, url, vmUuid, given] = process.argv.slice(2)
const { createClient } = await import(pathToFileURL(library + '/index.mjs'))
const say = what => console.log(JSON.stringify(what))

const xapi = createClient({ url, auth: { user: 'root', password: process.env.PASSWORD }, allowUnauthorized: true, debounce: 0 })
await xapi.connect()
await xapi.objectsFetched

const vm = xapi.getObjectByUuid(vmUuid)
say({ seen: { pool: xapi.pool.$type, vm: vm.name_label, host: vm.$resident_on.name_label, types: xapi._types.length } })

const progress = new Map()
const look = objects => {
  for (const id of Object.keys(objects)) {
    const object = objects[id]
    if (object?.$type === 'task') {
      const before = progress.get(object.uuid) ?? []
      if (before.at(-1) !== object.progress) progress.set(object.uuid, [...before, object.progress])
    }
  }
}
xapi.objects.on('add', look)
xapi.objects.on('update', look)

const started = JSON.parse(await xapi.call('host.call_plugin', vm.resident_on, 'sxm.py', 'migrate', { ...JSON.parse(given), wait: 'false' }))
say({ started })
await xapi.barrier()
const task = xapi.getObjectByUuid(started.task)
say({ task: { label: task.name_label, appliesTo: task.other_config.applies_to === vm.$ref } })
const ended = await xapi.watchTask(task.$ref).then(() => 'success', error => error.code ?? String(error))
say({ ended, progress: progress.get(started.task) })
await xapi.disconnect()
