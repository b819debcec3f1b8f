{{- /* Names and labels that more than one manifest needs. */ -}}

{{- define "moorage.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 47 | trimSuffix "-" -}}
{{- else if contains "moorage" .Release.Name -}}
{{- .Release.Name | trunc 47 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-moorage" (.Release.Name | trunc 39) | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "moorage.selectorLabels" -}}
app.kubernetes.io/name: moorage
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "moorage.commonLabels" -}}
app.kubernetes.io/name: moorage
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: moorage
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "moorage.labels" -}}
{{ include "moorage.commonLabels" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "moorage.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "moorage.fullname" .) "default") -}}
{{- end -}}

{{- define "moorage.image" -}}
{{- .Values.image | default (printf "ghcr.io/moorage/operator:%s" .Chart.AppVersion) -}}
{{- end -}}

{{- /* What the `restricted` Pod Security Standard asks of a container, and a read-only root besides. */ -}}
{{- define "moorage.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}
