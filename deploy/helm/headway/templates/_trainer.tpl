{{/* Parts of trainers, which Deployments and LeaderWorkerSets share. All take root, name, spec and base. */}}

{{- define "headway.trainer.settings" -}}
image: {{ include "headway.image" (dict "root" .root "image" .spec.image) | quote }}
imagePullPolicy: {{ .root.Values.imagePullPolicy }}
resources:
  {{- include "headway.resources" (dict "resources" .spec.resources "gpus" .spec.gpus "gpuResource" .spec.gpuResource) | nindent 2 }}
securityContext: {{- include "headway.containerSecurity" .root | nindent 2 }}
volumeMounts:
  {{- include "headway.folderMounts" .root | nindent 2 }}
  {{- include "headway.tokenMounts" $ | nindent 2 }}
  {{- include "headway.modelMounts" .root | nindent 2 }}
  {{- with include "headway.databaseMounts" .root }}{{ . | nindent 2 }}{{ end }}
  {{- with .spec.extraVolumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end -}}

{{/* follows: of a pod without rank 0, which alone serves metrics. */}}
{{- define "headway.trainer.options" -}}
- --base
- {{ .base | quote }}
- --device
- {{ .spec.device }}
{{- if gt (int .spec.threads) 0 }}
- --threads
- {{ .spec.threads | int64 | quote }}
{{- end }}
{{- if not .follows }}
- --metrics-host
- {{ include "headway.anyAddress" .root }}
- --metrics-port
- "9420"
{{- end }}
{{- end -}}

{{/* With those of the operator. */}}
{{- define "headway.trainer.wholeEnv" -}}
{{ include "headway.env" (dict "root" .root "plane" "trainer" "where" (printf "trainers.%s" .name) "own" (include "headway.trainer.env" .) "extra" .spec.extraEnv) }}
{{- end -}}

{{- define "headway.trainer.env" -}}
{{ include "headway.databaseEnv" .root }}
{{ include "headway.folderEnv" .root }}
{{ include "headway.storeEnv" . }}
{{ include "headway.blobEnv" . }}
{{ include "headway.metricsTokenEnv" .root }}
{{ include "headway.modelsEnv" .root }}
- {name: HEADWAY_STOP_GRACE_S, value: {{ .spec.stopGraceSeconds | int64 | quote }}}
{{- if gt (int .spec.nodes) 1 }}
- {name: GLOO_SOCKET_IFNAME, value: {{ .spec.networkInterface | quote }}}
- {name: NCCL_SOCKET_IFNAME, value: {{ .spec.networkInterface | quote }}}
{{- else }}
- {name: HEADWAY_TRAINER_GPUS, value: {{ max 1 (int .spec.gpus) | quote }}}
{{- end }}
{{- end -}}

{{/* One torchrun a pod. Rank 0 is in the first, by the order of pods and not by who comes first. */}}
{{- define "headway.trainer.torchrun" -}}
command: [torchrun]
args:
  - --nnodes
  - $(LWS_GROUP_SIZE)
  - --nproc-per-node
  - {{ max 1 (int .spec.gpus) | quote }}
  - --node-rank
  - $(LWS_WORKER_INDEX)
  - --master-addr
  - $(LWS_LEADER_ADDRESS)
  - --master-port
  - "29400"
  - -m
  - trainer.main
  {{- include "headway.trainer.options" . | nindent 2 }}
env:
  {{- include "headway.trainer.wholeEnv" . | nindent 2 }}
{{- end -}}

{{/* Of the process that serves metrics, which it does once the base is loaded. */}}
{{- define "headway.trainer.probes" -}}
ports:
  - {name: metrics, containerPort: 9420}
startupProbe:
  tcpSocket: {port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (int .spec.startSeconds) 5 }}
readinessProbe:  # PostgreSQL has had a heartbeat of the trainer on this host lately
  exec: {command: [python, /opt/health.py, trainer]}
  periodSeconds: 30
  timeoutSeconds: 15
  failureThreshold: 2
livenessProbe:  # the process itself, which ends when its engine hangs; that the database is away is nothing to restart for
  tcpSocket: {port: metrics}
  periodSeconds: 30
  timeoutSeconds: 15
  failureThreshold: 4
{{- end -}}

{{- define "headway.trainer.volumes" -}}
{{ include "headway.folderVolumes" . }}
{{ include "headway.tokenVolumes" . }}
{{ include "headway.modelVolumes" . }}
{{- with include "headway.databaseVolumes" .root }}
{{ . }}
{{- end }}
{{- with .spec.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
