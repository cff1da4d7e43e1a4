{{- define "xdc-grid.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Base of every name. 40 characters leave room for what the operator and StatefulSets append. */}}
{{- define "xdc-grid.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "xdc-grid.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "xdc-grid.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "xdc-grid.operator" -}}{{ include "xdc-grid.fullname" . }}-operator{{- end }}
{{- define "xdc-grid.gateway" -}}{{ include "xdc-grid.fullname" . }}-gateway{{- end }}
{{- define "xdc-grid.gateway.headless" -}}{{ include "xdc-grid.gateway" . }}-p2p-internal{{- end }}

{{/* DNS name of the one gateway pod, known before it is ready: what workers in the cluster dial. */}}
{{- define "xdc-grid.gateway.dns" -}}
{{ include "xdc-grid.gateway" . }}-0.{{ include "xdc-grid.gateway.headless" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "xdc-grid.gateway.tokenSecret" -}}
{{- .Values.gateway.internalToken.existingSecret | default (printf "%s-internal-token" (include "xdc-grid.gateway" .)) }}
{{- end }}

{{/* Labels that select pods of a component: (dict "root" $ "component" "gateway"). Never change: selectors are immutable. */}}
{{- define "xdc-grid.selectorLabels" -}}
app.kubernetes.io/name: {{ include "xdc-grid.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "xdc-grid.labels" -}}
{{ include "xdc-grid.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: xdc-grid
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.global.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "xdc-grid.image" -}}
{{- $image := .Values.image }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* The restricted pod-security level, for the pod … */}}
{{- define "xdc-grid.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* … and for each container. */}}
{{- define "xdc-grid.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Fields of every pod of the chart: (dict "root" $ "values" .Values.operator). */}}
{{- define "xdc-grid.podPlacement" -}}
{{- with .root.Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "xdc-grid.logEnv" -}}
- name: GRID_LOG
  value: {{ .Values.log.filter | quote }}
- name: GRID_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- end }}

{{/* Egress peers from a list of CIDRs; none = everywhere. */}}
{{- define "xdc-grid.cidrPeers" -}}
{{- range . }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- end }}

{{- define "xdc-grid.tcpPorts" -}}
{{- range . }}
- protocol: TCP
  port: {{ . }}
{{- end }}
{{- end }}

{{- define "xdc-grid.dnsEgress" -}}
- ports:
    - protocol: UDP
      port: 53
    - protocol: TCP
      port: 53
{{- end }}

{{/* Spec of the GridNetwork, with the reporter's Secret filled in where the values name one. */}}
{{- define "xdc-grid.networkSpec" -}}
{{- $spec := deepCopy .Values.network.spec }}
{{- if .Values.reporter.secretName }}
{{- $spec = mergeOverwrite (dict "chain" (dict "reporterSecretRef" (dict "name" .Values.reporter.secretName))) $spec }}
{{- end }}
{{- toYaml $spec }}
{{- end }}
