// node follow_migration.mjs XEN_API URL VM ARGUMENTS [cancel]: has the plugin move the VM (its UUID), by the stock client, and follows its task by events.
// XEN_API: where the client lies; ARGUMENTS: a JSON object, the plugin's; cancel: the task is cancelled when the client sees it in mid-copy.
// The password of root comes in $PASSWORD.
// Prints a JSON object a line: what it saw of the pool, what the plugin answered, the task, each progress of it, how it ended.
import { pathToFileURL } from 'node:url'

const [library, url, vmUuid, given, then] = process.argv.slice(2)
const { createClient } = await import(pathToFileURL(library + '/index.mjs'))
const say = what => console.log(JSON.stringify(what))

const xapi = createClient({ url, auth: { user: 'root', password: process.env.PASSWORD }, allowUnauthorized: true, debounce: 0 })
await xapi.connect()
await xapi.objectsFetched

const vm = xapi.getObjectByUuid(vmUuid)
say({ seen: { pool: xapi.pool.$type, vm: vm.name_label, host: vm.$resident_on.name_label, types: xapi._types.length } })

const progress = new Map()
const waiting = new Set()
const look = objects => {
  for (const id of Object.keys(objects)) {
    const object = objects[id]
    if (object?.$type === 'task') {
      const before = progress.get(object.uuid) ?? []
      if (before.at(-1) !== object.progress) progress.set(object.uuid, [...before, object.progress])
    }
  }
  for (const each of waiting) each()
}
xapi.objects.on('add', look)
xapi.objects.on('update', look)

// By the events alone; whoever runs this bounds it.
const underWay = uuid =>
  new Promise(resolve => {
    const each = () => {
      if (!(progress.get(uuid)?.at(-1) > 0)) return
      waiting.delete(each)
      resolve()
    }
    waiting.add(each)
    each()
  })

const started = JSON.parse(await xapi.call('host.call_plugin', vm.resident_on, 'sxm.py', 'migrate', { ...JSON.parse(given), wait: 'false' }))
say({ started })
await xapi.barrier()
const task = xapi.getObjectByUuid(started.task)
say({
  task: {
    label: task.name_label,
    description: task.name_description,
    appliesTo: task.other_config.applies_to === vm.$ref,
    allowed: task.allowed_operations,
  },
})
const end = xapi.watchTask(task.$ref).then(() => 'success', error => error.code ?? String(error))
if (then === 'cancel') {
  await underWay(started.task)
  await xapi.call('task.cancel', task.$ref)
}
say({ ended: await end, progress: progress.get(started.task) })
await xapi.disconnect()
