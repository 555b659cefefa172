{{/* Environment variables, as items of a list. */}}

{{/* root, plane, where, own (variables that the chart sets, as YAML), extra: both. Each once, since Kubernetes refuses a
second one or takes the last; and of ours those alone that the plane reads. */}}
{{- define "headway.env" -}}
{{- $read := get (.root.Files.Get "files/variables.yaml" | fromYaml) .plane -}}
{{- range .extra -}}
{{- if and (hasPrefix "HEADWAY_" .name) (not (has .name $read)) -}}
{{- fail (printf "%s.extraEnv sets %s, which headway %s does not read, or which the chart gives as an option: docs/configuration.md has all variables" $.where .name $.plane) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- range concat (fromYamlArray .own) .extra -}}
{{- if has .name $names -}}
{{- fail (printf "%s.extraEnv sets %s, which is set already: by a value of the chart, or twice" $.where .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{ .own }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of servers, samplers, trainers and the migration. */}}
{{- define "headway.databaseEnv" -}}
- name: HEADWAY_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.existingSecret | quote }}, key: {{ .Values.database.urlKey | quote }}}}
{{- end -}}

{{- define "headway.migrate.env" -}}
{{ include "headway.databaseEnv" . }}
- {name: HOME, value: /tmp}
{{- end -}}

{{/* Of whatever keeps files: nothing outside these folders is written. */}}
{{- define "headway.folderEnv" -}}
- {name: HEADWAY_DATA_DIR, value: /var/lib/headway}
- {name: HOME, value: /tmp}
{{- end -}}

{{/* root, spec: where blobs are; samplers have no use for them. */}}
{{- define "headway.blobEnv" -}}
- {name: HEADWAY_BLOB_STORE, value: {{ include "headway.storeUrl" (dict "url" .root.Values.objectStore.blobs "spec" .spec) | quote }}}
{{- end -}}

{{/* url, spec: with the size of the plane's copies of what it wrote or read. */}}
{{- define "headway.storeUrl" -}}
{{ .url }}?cache_gib={{ .spec.cacheGiB | int64 }}
{{- end -}}

{{/* root, spec: where checkpoints are, with credentials of the object store. */}}
{{- define "headway.storeEnv" -}}
{{- with .root.Values.objectStore -}}
- {name: HEADWAY_CHECKPOINT_STORE, value: {{ include "headway.storeUrl" (dict "url" .checkpoints "spec" $.spec) | quote }}}
- {name: AWS_DEFAULT_REGION, value: {{ .region | quote }}}
{{- if .endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ .endpoint | quote }}}
{{- end }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .accessKeyIdKey | quote }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .secretAccessKeyKey | quote }}}}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Files, which the planes read again when a Secret is changed. */}}
{{- define "headway.samplerTokenEnv" -}}
- {name: HEADWAY_SAMPLER_TOKEN_FILE, value: /etc/headway/tokens/sampler-token}
{{- end -}}

{{- define "headway.metricsTokenEnv" -}}
- {name: HEADWAY_METRICS_TOKEN_FILE, value: /etc/headway/tokens/metrics-token}
{{- end -}}

{{/* The address of the pod, by which others reach it: $(POD_IP) in arguments. */}}
{{- define "headway.addressEnv" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end -}}

{{/* Of whatever loads a base. */}}
{{- define "headway.modelsEnv" -}}
- {name: HF_HOME, value: /models/huggingface}
{{- if .Values.models.huggingFaceSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ .Values.models.huggingFaceSecret | quote }}, key: {{ .Values.models.huggingFaceKey | quote }}}}
{{- end }}
{{- end -}}

{{/* The address to listen on. */}}
{{- define "headway.anyAddress" -}}
{{- if .Values.ipv6 }}"::"{{ else }}0.0.0.0{{ end -}}
{{- end -}}

{{/* The pod's address in a URL. */}}
{{- define "headway.podHost" -}}
{{- if .Values.ipv6 }}[$(POD_IP)]{{ else }}$(POD_IP){{ end -}}
{{- end -}}

{{/* root, checks (whether it checks the certificates of others): what a plane listens with. */}}
{{- define "headway.tlsEnv" -}}
{{- if .root.Values.tls.enabled -}}
- {name: HEADWAY_TLS_CERT, value: /etc/headway/tls/tls.crt}
- {name: HEADWAY_TLS_KEY, value: /etc/headway/tls/tls.key}
{{- if .checks }}
- {name: HEADWAY_PLANE_CA, value: /etc/headway/planes-ca/ca.crt}
{{- end }}
{{- end }}
{{- end -}}

{{/* What probes speak to planes. */}}
{{- define "headway.probeScheme" -}}
{{ ternary "HTTPS" "HTTP" .Values.tls.enabled }}
{{- end -}}

{{/* Where the server's Service answers. */}}
{{- define "headway.serverUrl" -}}
{{- $scheme := ternary "https" "http" .Values.tls.enabled -}}
{{- printf "%s://%s-server.%s.svc:%d" $scheme (include "headway.fullname" .) .Release.Namespace (int .Values.server.service.port) -}}
{{- end -}}
