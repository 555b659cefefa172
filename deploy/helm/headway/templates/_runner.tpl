{{/* Parts of runners. */}}

{{/* root, spec */}}
{{- define "headway.runner.env" -}}
{{ include "headway.addressEnv" .root }}
{{ include "headway.folderEnv" .root }}
- {name: HEADWAY_RUNNER_KEY_FILE, value: /etc/headway/runner-key/key}
- {name: HEADWAY_RUNNER_SLOTS, value: {{ .spec.slots | int64 | quote }}}
- {name: HEADWAY_RUNNER_ISOLATION, value: {{ .spec.isolation }}}
- {name: HEADWAY_RUNNER_DRAIN_S, value: {{ .spec.drainSeconds | int64 | quote }}}
{{- with include "headway.tlsEnv" (dict "root" .root "checks" true) }}
{{ . }}
{{- end }}
{{- with .spec.labels }}
- {name: HEADWAY_RUNNER_LABELS, value: {{ join "," . | quote }}}
{{- end }}
{{- with .spec.team }}
- {name: HEADWAY_RUNNER_TEAM, value: {{ . | quote }}}
{{- end }}
{{- end -}}
