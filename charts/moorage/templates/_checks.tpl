{{- /* What the schema cannot say, or not in words that help: each failure tells what to write instead. */ -}}
{{- define "moorage.checks" -}}
{{- with .Values.prometheus.url }}
{{- if not (regexMatch "^https?://[^\\s/]+" .) }}
{{- fail (printf "prometheus.url must be a whole address, not %q: write for example http://prometheus.monitoring.svc:9090" .) }}
{{- end }}
{{- end }}
{{- with .Values.lease }}
{{- if ge (float64 .renewDeadlineSeconds) (float64 .durationSeconds) }}
{{- fail (printf "lease.renewDeadlineSeconds (%v) must be smaller than lease.durationSeconds (%v): a leader has to end before another may begin" .renewDeadlineSeconds .durationSeconds) }}
{{- end }}
{{- if ge (float64 .retrySeconds) (float64 .renewDeadlineSeconds) }}
{{- fail (printf "lease.retrySeconds (%v) must be smaller than lease.renewDeadlineSeconds (%v): a leader needs more than one try" .retrySeconds .renewDeadlineSeconds) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if hasPrefix "MOORAGE_" .name }}
{{- fail (printf "extraEnv may not set %s: every MOORAGE_ variable has a value of its own in values.yaml; set that one" .name) }}
{{- end }}
{{- end }}
{{- end -}}
