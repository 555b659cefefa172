{{/* What a schema cannot say. */}}

{{/* root, kind, name, spec: the slug of the base that an entry of samplers or trainers serves. */}}
{{- define "headway.baseOf" -}}
{{- $base := .spec.base | default .name -}}
{{- if not (hasKey .root.Values.bases $base) -}}
{{- fail (printf "%s.%s: bases has no %q; add it there, or name one of %s in %s.%s.base" .kind .name $base (keys .root.Values.bases | sortAlpha | join ", " | default "none") .kind .name) -}}
{{- end -}}
{{- $base -}}
{{- end -}}

{{/* name, spec */}}
{{- define "headway.checkSampler" -}}
{{- if and (eq .spec.backend "local") (or (gt (int .spec.nodes) 1) .spec.attached (gt (int .spec.gpus) 0)) -}}
{{- fail (printf "samplers.%s: the backend local computes on the CPU of one pod: set gpus 0, nodes 1, attached false" .name) -}}
{{- end -}}
{{- if and (gt (int .spec.nodes) 1) (not .spec.adapterClaim) -}}
{{- fail (printf "samplers.%s: %d pods read the same adapters: name a ReadWriteMany claim in adapterClaim" .name (int .spec.nodes)) -}}
{{- end -}}
{{- end -}}

{{/* name, spec */}}
{{- define "headway.checkTrainer" -}}
{{- if and (eq .spec.device "cuda") (lt (int .spec.gpus) 1) -}}
{{- fail (printf "trainers.%s: the device cuda wants gpus; or set device cpu" .name) -}}
{{- end -}}
{{- end -}}
