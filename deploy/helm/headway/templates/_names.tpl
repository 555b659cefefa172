{{/* Names and labels. */}}

{{- define "headway.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{/* What names of objects begin with. A release may have dots in its name, a Service may not. A long one is cut, and has
a hash of the whole at its end: two releases in a namespace that differ in their last letters share no object. */}}
{{- define "headway.fullname" -}}
{{- $name := include "headway.name" . -}}
{{- $usual := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $full := .Values.fullnameOverride | default $usual | replace "." "-" -}}
{{- if gt (len $full) 40 -}}
{{- $full = printf "%s-%s" (trunc 11 $full | trimSuffix "-") (sha256sum $full | trunc 8) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $full) -}}
{{- fail (printf "names would begin with %q, which no Service may: set fullnameOverride to a letter, then letters, digits and -, in lower case" $full) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* root, component, name, nodes: of the workload of one entry of samplers, trainers or runners. Pods of a group have
their StatefulSet's name, a number and a hash in a label of 63 characters; what KEDA scales is in a label, too. */}}
{{- define "headway.workloadName" -}}
{{- $full := printf "%s-%s-%s" (include "headway.fullname" .root) .component .name -}}
{{- $most := ternary 48 63 (gt (int .nodes) 1) -}}
{{- if gt (len $full) $most -}}
{{- fail (printf "%ss.%s: its workload would be called %s, and may have %d characters: choose a shorter name there, or in fullnameOverride" .component .name $full $most) -}}
{{- end -}}
{{- $full -}}
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
app.kubernetes.io/name: {{ include "headway.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* root, component: of the pods of one plane. */}}
{{- define "headway.planeLabels" -}}
{{ include "headway.releaseLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* root, component, name: of the pods of one entry of samplers, trainers or runners. */}}
{{- define "headway.groupLabels" -}}
{{ include "headway.planeLabels" . }}
headway.dev/group: {{ .name | quote }}
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

{{/* root, image: with its own digest the tag of all images counts for nothing. */}}
{{- define "headway.image" -}}
{{- $registry := .root.Values.imageRegistry -}}
{{- if $registry -}}{{ trimSuffix "/" $registry }}/{{- end -}}{{ .image.repository }}
{{- if .image.digest -}}
{{ with .image.tag }}:{{ . }}{{ end }}@{{ .image.digest }}
{{- else -}}
:{{ .image.tag | default .root.Values.imageTag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}
