{{/* Names and labels. */}}

{{- define "headway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "headway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "headway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "headway.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of every object. */}}
{{- define "headway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: headway
{{ include "headway.releaseLabels" . }}
{{- end -}}

{{/* Of every pod of this release. */}}
{{- define "headway.releaseLabels" -}}
app.kubernetes.io/name: {{ include "headway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* root, component: of the pods of one plane. */}}
{{- define "headway.planeLabels" -}}
{{ include "headway.releaseLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* root, component, name: of the pods of one entry of samplers, trainers or runners. */}}
{{- define "headway.groupLabels" -}}
{{ include "headway.planeLabels" . }}
headway.dev/group: {{ .name }}
{{- end -}}

{{/* root, component: the plane's service account. */}}
{{- define "headway.serviceAccountName" -}}
{{- if eq .component "runner" -}}
{{ include "headway.fullname" .root }}-runner
{{- else if .root.Values.serviceAccounts.create -}}
{{ include "headway.fullname" .root }}-{{ .component }}
{{- else -}}
{{ .root.Values.serviceAccounts.name }}
{{- end -}}
{{- end -}}

{{/* root, image */}}
{{- define "headway.image" -}}
{{- $registry := .root.Values.imageRegistry -}}
{{- $tag := .image.tag | default .root.Values.imageTag | default .root.Chart.AppVersion -}}
{{- if $registry -}}{{ trimSuffix "/" $registry }}/{{- end -}}{{ .image.repository }}:{{ $tag }}
{{- end -}}
