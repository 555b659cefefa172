{{/* A map: takes out what was set to null, at any depth, by which a file of values removes what one before it has. Helm
does so itself with keys of values.yaml alone. Every template begins with it, since none is rendered before all others. */}}
{{- define "headway.withoutNulls" -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $ $key -}}
{{- else if kindIs "map" $value -}}
{{- include "headway.withoutNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* defaults, given: the defaults with what is given over them, as YAML. Maps are merged, but for selectors and affinity,
of which a part says something else than the whole. Unlike with mergeOverwrite, a given false, 0 or empty list wins. */}}
{{- define "headway.over" -}}
{{- $merged := deepCopy .defaults -}}
{{- range $key, $value := .given -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $merged $key)) (not (has $key (list "nodeSelector" "affinity"))) -}}
{{- $_ := set $merged $key (include "headway.over" (dict "defaults" (get $merged $key) "given" $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $merged -}}
{{- end -}}
