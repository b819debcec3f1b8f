{{- /*
The operator's settings, as the environment variables its settings module reads. A test compares names and defaults
with that module, so neither side can change alone.
*/ -}}
{{- define "moorage.env" -}}
{{- $settings := dict
  "namespaces" (join "," .Values.watchNamespaces)
  "workers" .Values.reconcile.workers
  "reconcile_timeout_seconds" .Values.reconcile.timeoutSeconds
  "resync_seconds" .Values.reconcile.resyncSeconds
  "watch_lag_limit_seconds" .Values.reconcile.watchLagLimitSeconds
  "request_timeout_seconds" .Values.reconcile.requestTimeoutSeconds
  "lease_name" .Values.lease.name
  "lease_namespace" .Release.Namespace
  "lease_duration_seconds" .Values.lease.durationSeconds
  "lease_renew_deadline_seconds" .Values.lease.renewDeadlineSeconds
  "lease_retry_seconds" .Values.lease.retrySeconds
  "prometheus_url" .Values.prometheus.url
  "prometheus_timeout_seconds" .Values.prometheus.timeoutSeconds
  "scaling_interval_seconds" .Values.scaling.intervalSeconds
  "scaling_rate_window_seconds" .Values.scaling.rateWindowSeconds
  "scaling_fresh_seconds" .Values.scaling.freshSeconds
  "progress_interval_seconds" .Values.training.progressIntervalSeconds
  "torch_image" (.Values.runtimes.torch.image | default (printf "ghcr.io/moorage/torch:%s" .Chart.AppVersion))
  "triton_image" .Values.runtimes.triton.image
  "image_pull_policy" .Values.runtimes.imagePullPolicy
  "image_pull_secrets" (join "," .Values.runtimes.imagePullSecrets)
  "gpu_resource" .Values.runtimes.gpuResource
  "gpu_tolerations" (toJson .Values.runtimes.gpuTolerations)
  "pod_monitors" .Values.podMonitors.mode
  "pod_monitor_labels" (toJson .Values.podMonitors.labels)
  "metrics_port" 9090
  "health_port" 9091
  "log_level" .Values.logging.level
  "log_format" .Values.logging.format
-}}
{{- range $name, $value := $settings }}
- name: MOORAGE_{{ upper $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end -}}
