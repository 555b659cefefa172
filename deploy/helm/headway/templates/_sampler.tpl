{{/* Parts of samplers, which Deployments and LeaderWorkerSets share. */}}

{{/* spec: whether vLLM has a container of its own. */}}
{{- define "headway.sampler.isAttached" -}}
{{- if and (eq .spec.backend "vllm") (or .spec.attached (gt (int .spec.nodes) 1)) }}true{{ end -}}
{{- end -}}

{{/* root, spec, base, ofVllm (whether vLLM is started by it): the container of the sampler itself */}}
{{- define "headway.sampler.container" -}}
{{- $attached := include "headway.sampler.isAttached" . -}}
{{- $gpus := ternary 0 (int .spec.gpus) (not (empty $attached)) -}}
{{- $resources := ternary .spec.agentResources .spec.resources (not (empty $attached)) -}}
{{- with .spec -}}
name: sampler
image: {{ include "headway.image" (dict "root" $.root "image" .image) | quote }}
imagePullPolicy: {{ $.root.Values.imagePullPolicy }}
args:
  - sampler
  - --backend
  - {{ .backend }}
  - --base
  - {{ $.base | quote }}
  - --host
  - {{ include "headway.anyAddress" $.root }}
  - --port
  - "8430"
  - --advertise
  - {{ printf "%s://%s:8430" (ternary "https" "http" $.root.Values.tls.enabled) (include "headway.podHost" $.root) }}
  {{- if gt (int .threads) 0 }}
  - --threads
  - {{ .threads | int64 | quote }}
  {{- end }}
env:
  {{- include "headway.env" (dict "root" $.root "plane" "sampler" "where" (printf "samplers.%s" $.name) "own" (include "headway.sampler.env" $) "extra" .extraEnv) | nindent 2 }}
ports:
  - {name: http, containerPort: 8430}
startupProbe:  # it listens once the base is loaded
  httpGet: {path: /healthz, port: http, scheme: {{ include "headway.probeScheme" $.root }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (int .startSeconds) 5 }}
readinessProbe:  # whether it can generate; while its vLLM is started again it cannot
  httpGet: {path: /healthz, port: http, scheme: {{ include "headway.probeScheme" $.root }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:  # the process itself: it starts a vLLM that died again, or ends
  tcpSocket: {port: http}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
resources: {{- include "headway.resources" (dict "resources" $resources "gpus" $gpus "gpuResource" .gpuResource) | nindent 2 }}
securityContext: {{- include "headway.containerSecurity" $.root | nindent 2 }}
volumeMounts:
  {{- include "headway.folderMounts" $.root | nindent 2 }}
  {{- include "headway.tokenMounts" $ | nindent 2 }}
  {{- include "headway.modelMounts" $.root | nindent 2 }}
  {{- if $attached }}
  {{- include "headway.sampler.adapterMount" $ | nindent 2 }}
  {{- end }}
  {{- with include "headway.databaseMounts" $.root }}{{ . | nindent 2 }}{{ end }}
  {{- with include "headway.tlsMounts" (dict "root" $.root "checks" false) }}{{ . | nindent 2 }}{{ end }}
  {{- with .extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end -}}

{{/* root, spec: the variables of the sampler itself. */}}
{{- define "headway.sampler.env" -}}
{{- $attached := include "headway.sampler.isAttached" . -}}
{{- with .spec -}}
{{ include "headway.addressEnv" $.root }}
{{ include "headway.databaseEnv" $.root }}
{{ include "headway.folderEnv" $.root }}
{{ include "headway.storeEnv" $ }}
{{ include "headway.samplerTokenEnv" $.root }}
{{ include "headway.metricsTokenEnv" $.root }}
{{ include "headway.modelsEnv" $.root }}
{{- if $attached }}
{{- with include "headway.sampler.groupEnv" $ }}
{{ . }}
{{- end }}
{{- end }}
{{- with include "headway.tlsEnv" (dict "root" $.root "checks" false) }}
{{ . }}
{{- end }}
- {name: HEADWAY_DRAIN_S, value: {{ .drainSeconds | int64 | quote }}}
{{- if eq .backend "vllm" }}
- {name: HEADWAY_VLLM_MAX_LORA_RANK, value: {{ .maxLoraRank | int64 | quote }}}
- {name: HEADWAY_VLLM_MAX_NUM_SEQS, value: {{ .maxNumSeqs | int64 | quote }}}
{{- if $attached }}
- {name: HEADWAY_VLLM_URL, value: "http://127.0.0.1:8000"}
- {name: HEADWAY_VLLM_ADAPTER_DIR, value: /adapters}
{{- else }}
- {name: HEADWAY_SAMPLER_TENSOR_PARALLEL, value: {{ max 1 (int .gpus) | quote }}}
{{- end }}
{{- if .toolCallParser }}
- {name: HEADWAY_TOOL_CALL_PARSER, value: {{ .toolCallParser | quote }}}
{{- end }}
{{- if .reasoningParser }}
- {name: HEADWAY_REASONING_PARSER, value: {{ .reasoningParser | quote }}}
{{- end }}
{{- if .vllmArgs }}
- {name: HEADWAY_VLLM_ARGS, value: {{ .vllmArgs | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* root, spec, name: adapters, for sampler and vLLM. Each group of pods has a folder of its own in the claim: locks of
folders, by which a sampler knows those of dead ones, reach no other node. */}}
{{- define "headway.sampler.adapterMount" -}}
{{- if gt (int .spec.nodes) 1 -}}
- {name: adapters, mountPath: /adapters, subPathExpr: {{ printf "%s-$(GROUP)" (include "headway.workloadName" (dict "root" .root "component" "sampler" "name" .name "nodes" .spec.nodes)) }}}
{{- else -}}
- {name: adapters, mountPath: /adapters}
{{- end }}
{{- end -}}

{{/* spec: the number of the group among those of a set. */}}
{{- define "headway.sampler.groupEnv" -}}
{{- if gt (int .spec.nodes) 1 -}}
- name: GROUP
  valueFrom: {fieldRef: {fieldPath: "metadata.labels['leaderworkerset.sigs.k8s.io/group-index']"}}
{{- end -}}
{{- end -}}

{{/* root, spec, headless: a pod without the sampler itself has no use for tokens and certificates. */}}
{{- define "headway.sampler.volumes" -}}
{{ include "headway.folderVolumes" . }}
{{ include "headway.modelVolumes" . }}
{{- if include "headway.sampler.isAttached" . }}
- name: adapters
{{- if gt (int .spec.nodes) 1 }}
  persistentVolumeClaim: {claimName: {{ .spec.adapterClaim | quote }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .spec.dataSize }}}
{{- end }}
{{- end }}
{{- with .spec.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- if not .headless }}
{{ include "headway.tokenVolumes" . }}
{{- with include "headway.databaseVolumes" .root }}
{{ . }}
{{- end }}
{{- with include "headway.tlsVolumes" (dict "root" .root "checks" false "secret" .root.Values.tls.samplerSecret) }}
{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* root, spec, base, headless: vLLM in a container of its own, as the sampler would start it. With headless, the part
of it on another node than the first. */}}
{{- define "headway.sampler.vllm" -}}
{{- with .spec -}}
name: vllm
image: {{ include "headway.image" (dict "root" $.root "image" .image) | quote }}
imagePullPolicy: {{ $.root.Values.imagePullPolicy }}
command: [/opt/vllm/bin/python, -m, vllm.entrypoints.cli.main]
args:
  - serve
  - {{ (get $.root.Values.bases $.base).weights | quote }}
  {{- if $.headless }}
  - --headless
  {{- else }}
  - --host
  - 127.0.0.1
  - --port
  - "8000"
  {{- end }}
  - --logprobs-mode
  - processed_logprobs
  - --generation-config
  - vllm
  - --max-logprobs
  - "128"
  - --max-loras
  - "8"
  - --max-cpu-loras
  - "64"
  - --max-lora-rank
  - {{ .maxLoraRank | int64 | quote }}
  - --max-num-seqs
  - {{ .maxNumSeqs | int64 | quote }}
  {{- $stages := ternary (int .nodes) 1 .pipeline }}
  - --tensor-parallel-size
  - {{ div (mul (max 1 (int .gpus)) (int .nodes)) $stages | quote }}
  {{- if gt (int .nodes) 1 }}
  - --pipeline-parallel-size
  - {{ $stages | quote }}
  - --nnodes
  - {{ .nodes | int64 | quote }}
  - --node-rank
  - {{ ternary "$(LWS_WORKER_INDEX)" "0" (not (not $.headless)) | quote }}
  - --master-addr
  - $(LWS_LEADER_ADDRESS)
  - --master-port
  - "29500"
  {{- end }}
  - --scheduling-policy
  - priority
  - --stream-interval
  - "8"
  - --structured-outputs-config
  - '{"backend": "xgrammar", "disable_any_whitespace": true}'
  - --worker-extension-cls
  - worker_extension.WorkerExtension
  - --shutdown-timeout
  - "30"
  - --enable-lora
  - --enable-scale-out
  - --disable-uvicorn-access-log
  {{- if not (has .toolCallParser (list "" "none")) }}
  - --enable-auto-tool-choice
  - --tool-call-parser
  - {{ .toolCallParser | quote }}
  {{- end }}
  {{- if not (has .reasoningParser (list "" "none")) }}
  - --reasoning-parser
  - {{ .reasoningParser | quote }}
  {{- end }}
  {{- range splitList " " .vllmArgs }}
  {{- if . }}
  - {{ . | quote }}
  {{- end }}
  {{- end }}
env:
  {{- include "headway.env" (dict "root" $.root "plane" "sampler" "where" (printf "samplers.%s" $.name) "own" (include "headway.sampler.vllmEnv" $) "extra" .extraEnv) | nindent 2 }}
{{- if $.headless }}
lifecycle:
  preStop:  # the sampler's requests under way need all pods of the group, which get SIGTERM in any order
    exec: {command: [/opt/vllm/bin/python, -c, {{ include "headway.sampler.awaitDrain" $ | quote }}]}
{{- else }}
ports:
  - {name: vllm, containerPort: 8000}
startupProbe:
  exec: {command: [/opt/vllm/bin/python, -c, {{ include "headway.sampler.vllmIsWell" $ | quote }}]}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: {{ div (int .startSeconds) 10 }}
readinessProbe:
  exec: {command: [/opt/vllm/bin/python, -c, {{ include "headway.sampler.vllmIsWell" $ | quote }}]}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
livenessProbe:
  exec: {command: [/opt/vllm/bin/python, -c, {{ include "headway.sampler.vllmIsWell" $ | quote }}]}
  periodSeconds: 20
  timeoutSeconds: 15
  failureThreshold: 6
{{- end }}
resources: {{- include "headway.resources" (dict "resources" .resources "gpus" .gpus "gpuResource" .gpuResource) | nindent 2 }}
securityContext: {{- include "headway.containerSecurity" $.root | nindent 2 }}
volumeMounts:
  - {name: temporary, mountPath: /tmp}
  {{- include "headway.modelMounts" $.root | nindent 2 }}
  {{- include "headway.sampler.adapterMount" $ | nindent 2 }}
  {{- with .extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}
{{- end -}}

{{/* root, spec: the variables of vLLM in a container of its own. */}}
{{- define "headway.sampler.vllmEnv" -}}
{{- with .spec -}}
{{ include "headway.addressEnv" $.root }}
{{- with include "headway.sampler.groupEnv" $ }}
{{ . }}
{{- end }}
- {name: HOME, value: /tmp}
- {name: VLLM_ALLOW_RUNTIME_LORA_UPDATING, value: "1"}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
- {name: VLLM_HOST_IP, value: $(POD_IP)}
# What of ours runs inside it: the worker extension, and how pictures become pixels
- name: PYTHONPATH
  value: /opt/headway/lib/python3.12/site-packages/sampler/backends/vllm:/opt/headway/lib/python3.12/site-packages/sampler/backends/vllm/plugin
{{ include "headway.modelsEnv" $.root }}
{{- end }}
{{- end -}}

{{/* spec: until the sampler of the group listens no more, for as long as it may drain. */}}
{{- define "headway.sampler.awaitDrain" -}}
import os, socket, time
until = time.monotonic() + {{ add (int .spec.drainSeconds) 4 }}
try:
    leader = socket.getaddrinfo(os.environ["LWS_LEADER_ADDRESS"], 8430)[0][4][:2]
    while time.monotonic() < until:
        socket.create_connection(leader, timeout=2).close()
        time.sleep(1)
except OSError:
    pass
{{- end -}}

{{/* It listens on loopback alone, where no probe of the kubelet reaches it. */}}
{{- define "headway.sampler.vllmIsWell" -}}
import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=8)
{{- end -}}

{{/* spec: seconds from SIGTERM to the end: requests, two seconds to cut off the rest, twelve for its vLLM. */}}
{{- define "headway.sampler.graceSeconds" -}}
{{ add (int .spec.drainSeconds) (ternary 20 8 (eq .spec.backend "vllm")) }}
{{- end -}}
