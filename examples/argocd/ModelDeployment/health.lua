-- Health of a ModelDeployment for Argo CD, from its condition Ready: True is healthy, False is degraded (what was asked
-- for does not run), Unknown or absent is on its way, unless Stalled says that only a change of somebody's can help.
-- What an older generation said does not count.
local health = { status = "Progressing", message = "Waiting for the operator" }

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "Pending deletion"
  return health
end
if obj.status == nil or obj.status.conditions == nil then
  return health
end

local ready, stalled = nil, nil
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Ready" then
    ready = condition
  elseif condition.type == "Stalled" then
    stalled = condition
  end
end
if ready == nil then
  return health
end

local generation = obj.metadata.generation
local function stale(observed)
  return generation ~= nil and observed ~= nil and observed ~= generation
end
if stale(obj.status.observedGeneration) or stale(ready.observedGeneration) then
  health.message = "Waiting for the operator to see the latest change"
  return health
end
local stuck = stalled ~= nil and stalled.status == "True" and not stale(stalled.observedGeneration)

health.message = ready.reason
if ready.message ~= nil and ready.message ~= "" then
  health.message = ready.reason .. ": " .. ready.message
end
if ready.status == "True" then
  health.status = "Healthy"
elseif ready.status == "False" or stuck then
  health.status = "Degraded"
end
return health
