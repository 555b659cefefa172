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
{{- include "headway.checkFolder" (dict "name" (printf "samplers.%s" .name) "spec" .spec "stores" 1) -}}
{{- end -}}

{{/* name, spec */}}
{{- define "headway.checkTrainer" -}}
{{- if and (eq .spec.device "cuda") (lt (int .spec.gpus) 1) -}}
{{- fail (printf "trainers.%s: the device cuda wants gpus; or set device cpu" .name) -}}
{{- end -}}
{{- include "headway.checkFolder" (dict "name" (printf "trainers.%s" .name) "spec" .spec "stores" 2) -}}
{{- end -}}

{{/* name, spec, stores (how many it keeps copies of): the folder has to hold them, and the limit of the pod all of its
folders, or the pod is evicted. */}}
{{- define "headway.checkFolder" -}}
{{- $size := .spec.dataSize | toString -}}
{{- $needed := add (mul .stores (int .spec.cacheGiB)) 1 -}}
{{- if and (hasSuffix "Gi" $size) (lt (trimSuffix "Gi" $size | float64) (float64 $needed)) -}}
{{- fail (printf "%s: dataSize %s does not hold copies of cacheGiB %d (%d Gi with some room)" .name $size (int .spec.cacheGiB) $needed) -}}
{{- end -}}
{{- include "headway.checkStorage" . -}}
{{- end -}}

{{/* name, spec */}}
{{- define "headway.checkStorage" -}}
{{- $sizes := list (.spec.dataSize | toString) (.spec.temporarySize | toString) -}}
{{- $limit := get .spec.resources.limits "ephemeral-storage" | toString -}}
{{- $sum := 0.0 -}}
{{- range $sizes }}{{ $sum = addf $sum (ternary (trimSuffix "Gi" . | float64) 0.0 (hasSuffix "Gi" .)) }}{{ end -}}
{{- if and (hasSuffix "Gi" $limit) (gt $sum (trimSuffix "Gi" $limit | float64)) -}}
{{- fail (printf "%s: dataSize %s and temporarySize %s are more than the limit of ephemeral-storage, %s" .name (first $sizes) (last $sizes) $limit) -}}
{{- end -}}
{{- end -}}
