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
{{- if and (eq .spec.backend "local") (or .spec.vllmArgs .spec.toolCallParser .spec.reasoningParser) -}}
{{- fail (printf "samplers.%s: vllmArgs, toolCallParser and reasoningParser are of vLLM, and the backend is local" .name) -}}
{{- end -}}
{{- if and (include "headway.sampler.isAttached" .) (regexMatch "'" .spec.vllmArgs) -}}
{{- fail (printf "samplers.%s: vllmArgs are separated by blanks where vLLM has a container of its own, and no shell reads them: leave quotes out" .name) -}}
{{- end -}}
{{- if and (gt (int .spec.nodes) 1) (not .spec.adapterClaim) -}}
{{- fail (printf "samplers.%s: %d pods read the same adapters: name a ReadWriteMany claim in adapterClaim" .name (int .spec.nodes)) -}}
{{- end -}}
{{- include "headway.checkFolder" (dict "name" (printf "samplers.%s" .name) "spec" .spec "stores" 1) -}}
{{- include "headway.checkResources" (dict "name" (printf "samplers.%s.agentResources" .name) "resources" .spec.agentResources) -}}
{{- end -}}

{{/* name, spec */}}
{{- define "headway.checkTrainer" -}}
{{- if and (eq .spec.device "cuda") (lt (int .spec.gpus) 1) -}}
{{- fail (printf "trainers.%s: the device cuda wants gpus; or set device cpu" .name) -}}
{{- end -}}
{{- if and (eq .spec.device "cpu") (gt (int .spec.gpus) 0) -}}
{{- fail (printf "trainers.%s: the device cpu uses no GPU: set gpus 0" .name) -}}
{{- end -}}
{{- include "headway.checkFolder" (dict "name" (printf "trainers.%s" .name) "spec" .spec "stores" 2) -}}
{{- end -}}

{{/* A quantity, such as 20Gi or 500m, as a number. */}}
{{- define "headway.amount" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $binary := dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- $factors := merge $binary (dict "" 1.0 "m" 0.001 "k" 1000.0 "M" 1000000.0 "G" 1000000000.0 "T" 1000000000000.0) -}}
{{- mulf (trimSuffix $unit $text | float64) (get $factors $unit) | printf "%f" -}}
{{- end -}}

{{/* name, spec, stores (how many it keeps copies of): the folder has to hold them, and the limit of the pod all of its
folders, or the pod is evicted. */}}
{{- define "headway.checkFolder" -}}
{{- $needed := add (mul .stores (int .spec.cacheGiB)) 1 -}}
{{- if lt (include "headway.amount" .spec.dataSize | float64) (include "headway.amount" (printf "%dGi" $needed) | float64) -}}
{{- fail (printf "%s: dataSize %v does not hold copies of cacheGiB %d (%d Gi with some room)" .name .spec.dataSize (int .spec.cacheGiB) $needed) -}}
{{- end -}}
{{- include "headway.checkStorage" . -}}
{{- end -}}

{{/* name, spec */}}
{{- define "headway.checkStorage" -}}
{{- include "headway.checkResources" (dict "name" (printf "%s.resources" .name) "resources" .spec.resources) -}}
{{- $limit := get .spec.resources.limits "ephemeral-storage" -}}
{{- $sum := addf (include "headway.amount" .spec.dataSize | float64) (include "headway.amount" .spec.temporarySize | float64) -}}
{{- if gt $sum (include "headway.amount" $limit | float64) -}}
{{- fail (printf "%s: dataSize %v and temporarySize %v are more than the limit of ephemeral-storage, %v" .name .spec.dataSize .spec.temporarySize $limit) -}}
{{- end -}}
{{- end -}}

{{/* name, resources: what was given of requests may be more than the limits that were not. */}}
{{- define "headway.checkResources" -}}
{{- range $what, $request := .resources.requests -}}
{{- $limit := get $.resources.limits $what -}}
{{- if gt (include "headway.amount" $request | float64) (include "headway.amount" $limit | float64) -}}
{{- fail (printf "%s: the request of %s, %v, is more than its limit, %v" $.name $what $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* name, autoscaling */}}
{{- define "headway.checkScaling" -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) -}}
{{- fail (printf "%s.autoscaling: minReplicas %d is more than maxReplicas %d" .name (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}

{{/* What policies would silently keep apart. */}}
{{- define "headway.checkNetwork" -}}
{{- with .Values.networkPolicy -}}
{{- if and $.Values.monitoring.enabled (not .monitoring.from) -}}
{{- fail "monitoring.enabled: networkPolicy.monitoring.from names nobody, so that Prometheus would reach neither samplers nor trainers: name its namespace there" -}}
{{- end -}}
{{- $endpoint := urlParse $.Values.objectStore.endpoint -}}
{{- $port := regexFind ":[0-9]+$" $endpoint.host | trimPrefix ":" | default (ternary "80" "443" (eq $endpoint.scheme "http")) -}}
{{- if and $.Values.objectStore.endpoint (ne $port "443") (eq (.objectStore.ports | join ",") "443") -}}
{{- fail (printf "objectStore.endpoint is at port %s, and networkPolicy.objectStore.ports lets 443 through: put %s there, or where the endpoint is a Service the port of its pods" $port $port) -}}
{{- end -}}
{{- range .runner.egress }}{{ include "headway.checkEnvironments" . }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* A rule of egress of runners: a cloud's metadata service hands the credentials of the node to whoever asks. */}}
{{- define "headway.checkEnvironments" -}}
{{- if not .to -}}
{{- fail "networkPolicy.runner.egress has a rule without `to`, which lets environments reach everything: the metadata service of the cloud, the database. Name peers" -}}
{{- end -}}
{{- range .to -}}
{{- $cidr := dig "ipBlock" "cidr" "" . -}}
{{- $except := dig "ipBlock" "except" list . | join " " -}}
{{- if or (hasPrefix "169.254." $cidr) (and (hasSuffix ".0/0" $cidr) (not (contains "169.254." $except))) (and (hasSuffix ":/0" $cidr) (not (contains "fd00:ec2::" $except))) -}}
{{- fail (printf "networkPolicy.runner.egress: %s holds the metadata service of clouds, which gives environments the credentials of the node: leave it out by except: [169.254.0.0/16], or [\"fd00:ec2::/32\"] of ::/0" $cidr) -}}
{{- end -}}
{{- end -}}
{{- end -}}
