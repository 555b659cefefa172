{{/* What groups of pods (LeaderWorkerSets) have in common. */}}

{{/* root, image: waits until the first pod of the group has a name, which ranks on the others look up once. */}}
{{- define "headway.waitForLeader" -}}
name: wait-for-leader
image: {{ include "headway.image" . | quote }}
imagePullPolicy: {{ .root.Values.imagePullPolicy }}
command: [/opt/headway/bin/python, -c]
args:
  - |
    import os, socket, time
    while True:
        try:
            socket.getaddrinfo(os.environ["LWS_LEADER_ADDRESS"], None)
            break
        except OSError:
            time.sleep(1)
resources:
  requests: {cpu: 50m, memory: 64Mi, ephemeral-storage: 10Mi}
  limits: {cpu: 500m, memory: 256Mi, ephemeral-storage: 50Mi}
securityContext: {{- include "headway.containerSecurity" .root | nindent 2 }}
{{- end -}}
