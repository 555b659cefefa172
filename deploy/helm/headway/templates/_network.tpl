{{/* Rules of network policies, as items of lists. */}}

{{/* root, component: metadata and selected pods. */}}
{{- define "headway.network.head" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "headway.fullname" .root }}-{{ .component }}
  namespace: {{ .root.Release.Namespace | quote }}
  labels:
    {{- include "headway.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* root, component: pods of a plane of this release. */}}
{{- define "headway.network.plane" -}}
- podSelector:
    matchLabels: {{- include "headway.planeLabels" . | nindent 6 }}
{{- end -}}

{{- define "headway.network.names" -}}
- to: {{- toYaml .Values.networkPolicy.dns.to | nindent 4 }}
  ports:
    - {port: {{ .Values.networkPolicy.dns.port }}, protocol: UDP}
    - {port: {{ .Values.networkPolicy.dns.port }}, protocol: TCP}
{{- end -}}

{{/* to, ports: an empty list of peers is anybody. */}}
{{- define "headway.network.outside" -}}
- ports:
    {{- range .ports }}
    - {port: {{ . }}, protocol: TCP}
    {{- end }}
  {{- with .to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* root: the database, the object store, and where bases come from. */}}
{{- define "headway.network.stores" -}}
{{ include "headway.network.outside" .Values.networkPolicy.database }}
{{ include "headway.network.outside" .Values.networkPolicy.objectStore }}
{{- end -}}

{{- define "headway.network.hub" -}}
{{- if .Values.networkPolicy.hub.enabled -}}
{{ include "headway.network.outside" .Values.networkPolicy.hub }}
{{- end -}}
{{- end -}}

{{/* root, port: from whoever scrapes. */}}
{{- define "headway.network.scrapes" -}}
{{- with .root.Values.networkPolicy.monitoring.from -}}
- from: {{- toYaml . | nindent 4 }}
  ports: [{port: {{ $.port }}, protocol: TCP}]
{{- end -}}
{{- end -}}
