/** The client of Rollcall: asks for bots, and never misses a transition of theirs. */
export type {
  Bots,
  CallOptions,
  GetOptions,
  JoinOptions,
  ListOptions,
  WaitOptions,
  WatchOptions,
} from './client/bots.ts'
export type { BotChange, Change } from './client/change.ts'
export type { ChangesOptions, ChangeWithCursor } from './client/changes.ts'
export type { Connection } from './client/connection.ts'
export { RollcallError } from './client/errors.ts'
export type { ExecutionOptions, FlowDefinition, Flows, PageOptions } from './client/flows.ts'
export { createRollcall, type Rollcall, type RollcallOptions } from './client/rollcall.ts'
export type { DeliveryFilters, Webhooks } from './client/webhooks.ts'
export type {
  StateChange,
  WorkflowChange,
  WorkflowTransition,
  WorkflowWatchOptions,
} from './client/workflow_watch.ts'
export type {
  StateWaitOptions,
  WorkflowDefinition,
  WorkflowListOptions,
  Workflows,
} from './client/workflows.ts'
export type { Bot, BotStatus, ContainerStatus, MeetingStatus } from './contract/bots.ts'
export type { RunError } from './contract/errors.ts'
export type {
  ActiveExecutions,
  Execution,
  ExecutionList,
  ExecutionSummary,
  PromptResult,
} from './contract/executions.ts'
export type { Flow, FlowAgent, FlowList, Prompt } from './contract/flows.ts'
export type { JoinInput, JoinResponse } from './contract/join.ts'
export type { BotList } from './contract/status.ts'
export type { StopResponse } from './contract/stop.ts'
export type {
  NewWebhookEndpoint,
  RotatedSecret,
  WebhookDelivery,
  WebhookDeliveryList,
  WebhookEndpoint,
  WebhookEndpointList,
} from './contract/webhooks.ts'
export type { HandlerRun, WholeWorkflowRun, WorkflowRun, WorkflowRunList } from './contract/workflow_runs.ts'
export type {
  AddedMessage,
  SavedScript,
  Script,
  ScriptList,
  SecretNames,
  WorkflowMessage,
  WorkflowMessageList,
} from './contract/workflow_texts.ts'
export type {
  NewWorkflow,
  RequestedRun,
  Resolution,
  WholeWorkflow,
  Workflow,
  WorkflowList,
  WorkflowState,
  WorkflowSummary,
} from './contract/workflows.ts'
