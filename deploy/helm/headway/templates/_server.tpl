{{/* Parts of servers. */}}

{{- define "headway.server.env" -}}
{{- with .Values.server -}}
{{ include "headway.databaseEnv" $ }}
{{ include "headway.folderEnv" $ }}
{{ include "headway.storeEnv" (dict "root" $ "spec" .) }}
{{ include "headway.blobEnv" (dict "root" $ "spec" .) }}
{{ include "headway.samplerTokenEnv" $ }}
{{ include "headway.metricsTokenEnv" $ }}
- {name: HEADWAY_SERVER_WORKERS, value: {{ .workers | int64 | quote }}}
- {name: HEADWAY_SERVER_STOP_DELAY_S, value: {{ .stopDelaySeconds | int64 | quote }}}
- {name: HEADWAY_SERVER_STOP_GRACE_S, value: {{ .stopGraceSeconds | int64 | quote }}}
- {name: HEADWAY_SAMPLER_TARGET, value: {{ .samplerTarget | int64 | quote }}}
- {name: HEADWAY_SAMPLER_IDLE_S, value: {{ .samplerIdleSeconds | int64 | quote }}}
- {name: HEADWAY_SAMPLER_WAIT_S, value: {{ .samplerWaitSeconds | int64 | quote }}}
- {name: HEADWAY_WITHOUT_SAMPLER, value: {{ .withoutSampler }}}
{{- with include "headway.tlsEnv" (dict "root" $ "checks" true) }}
{{ . }}
{{- end }}
{{- if $.Values.tls.enabled }}
- {name: HEADWAY_PLANE_TLS_NAME, value: {{ $.Values.tls.planeName | quote }}}
{{- end }}
{{- if .trustedProxies }}
- {name: FORWARDED_ALLOW_IPS, value: {{ .trustedProxies | quote }}}
{{- end }}
{{- end }}
{{- end -}}
