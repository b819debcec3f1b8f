-- Health of a TrainingJob for Argo CD, from its condition Succeeded: True is healthy (done), False is degraded (it will
-- not be tried again), Unknown or absent is on its way, unless Stalled says that only a change of somebody's can help.
-- What an older generation said does not count.
local health = { status = "Progressing", message = "Waiting for the operator" }

if obj.metadata.deletionTimestamp ~= nil then
  health.message = "Pending deletion"
  return health
end
if obj.status == nil or obj.status.conditions == nil then
  return health
end

local succeeded, stalled = nil, nil
for _, condition in ipairs(obj.status.conditions) do
  if condition.type == "Succeeded" then
    succeeded = condition
  elseif condition.type == "Stalled" then
    stalled = condition
  end
end
if succeeded == nil then
  return health
end

local generation = obj.metadata.generation
local function stale(observed)
  return generation ~= nil and observed ~= nil and observed ~= generation
end
if stale(obj.status.observedGeneration) or stale(succeeded.observedGeneration) then
  health.message = "Waiting for the operator to see the latest change"
  return health
end
local stuck = stalled ~= nil and stalled.status == "True" and not stale(stalled.observedGeneration)

health.message = succeeded.reason
if succeeded.message ~= nil and succeeded.message ~= "" then
  health.message = succeeded.reason .. ": " .. succeeded.message
end
if succeeded.status == "True" then
  health.status = "Healthy"
elseif succeeded.status == "False" or stuck then
  health.status = "Degraded"
end
return health
