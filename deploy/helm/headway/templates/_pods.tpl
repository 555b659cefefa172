{{/* What pods of all planes have in common. */}}

{{/* spec (of the values), labels, role (of a pod in a group): what selects the pod, and what the values add. */}}
{{- define "headway.podMetadata" -}}
labels:
  {{- .labels | nindent 2 }}
  {{- with .role }}
  headway.dev/role: {{ . }}
  {{- end }}
  {{- range $key, $value := .spec.podLabels }}
  {{ $key }}: {{ $value | quote }}
  {{- end }}
{{- with .spec.podAnnotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* root, component, spec (of the values), graceSeconds */}}
{{- define "headway.podSettings" -}}
serviceAccountName: {{ include "headway.serviceAccountName" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .graceSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .spec.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* labels: of the pods that are to be spread over zones and nodes. */}}
{{- define "headway.spread" -}}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- $.labels | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "headway.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* resources, gpus, gpuResource: with the GPUs among the limits, which are requests as well. */}}
{{- define "headway.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if gt (int .gpus) 0 -}}
{{- $_ := set $resources.limits .gpuResource (int .gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* The folders that a container writes to: data and temporary files. */}}
{{- define "headway.folderMounts" -}}
- {name: data, mountPath: /var/lib/headway}
- {name: temporary, mountPath: /tmp}
{{- end -}}

{{/* spec */}}
{{- define "headway.folderVolumes" -}}
- name: data
  emptyDir: {sizeLimit: {{ .spec.dataSize }}}
- name: temporary
  emptyDir: {sizeLimit: {{ .spec.temporarySize }}}
{{- end -}}

{{/* Bases, and the shared memory through which ranks exchange. */}}
{{- define "headway.modelMounts" -}}
- {name: models, mountPath: /models{{ if .Values.models.readOnly }}, readOnly: true{{ end }}}
- {name: shared-memory, mountPath: /dev/shm}
{{- end -}}

{{/* root, spec */}}
{{- define "headway.modelVolumes" -}}
{{- if gt (len .root.Values.models.volume) 1 -}}
{{- fail (printf "models.volume has %s: a volume has one source; null removes another file's" (keys .root.Values.models.volume | sortAlpha | join ", ")) -}}
{{- end -}}
- name: models
  {{- toYaml (.root.Values.models.volume | default (dict "emptyDir" dict)) | nindent 2 }}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ .spec.sharedMemory }}}
{{- end -}}

{{/* Files for sslrootcert and the like in the database's URL. */}}
{{- define "headway.databaseMounts" -}}
{{- if .Values.database.filesSecret -}}
- {name: database-files, mountPath: /etc/headway/database, readOnly: true}
{{- end }}
{{- end -}}

{{- define "headway.databaseVolumes" -}}
{{- if .Values.database.filesSecret -}}
- name: database-files
  secret: {secretName: {{ .Values.database.filesSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* root, component: the tokens that a plane sends or accepts. */}}
{{- define "headway.tokenVolumes" -}}
{{- with .root.Values.tokens -}}
- name: tokens
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: 0440
    items:
      {{- if ne $.component "trainer" }}
      - {key: {{ .samplerTokenKey | quote }}, path: sampler-token}
      {{- end }}
      - {key: {{ .metricsTokenKey | quote }}, path: metrics-token}
{{- end }}
{{- end -}}

{{- define "headway.tokenMounts" -}}
- {name: tokens, mountPath: /etc/headway/tokens, readOnly: true}
{{- end -}}

{{/* root, checks: the certificate that a plane listens with, and the CA of the others. */}}
{{- define "headway.tlsMounts" -}}
{{- if .root.Values.tls.enabled -}}
- {name: tls, mountPath: /etc/headway/tls, readOnly: true}
{{- if .checks }}
- {name: planes-ca, mountPath: /etc/headway/planes-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{/* root, checks, secret */}}
{{- define "headway.tlsVolumes" -}}
{{- if .root.Values.tls.enabled -}}
- name: tls
  secret: {secretName: {{ .secret | quote }}, defaultMode: 0440}
{{- if .checks }}
- name: planes-ca
  secret:
    secretName: {{ .root.Values.tls.caSecret | quote }}
    defaultMode: 0440
    items: [{key: {{ .root.Values.tls.caKey | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end -}}
