{{- define "tidegate.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of one component. Takes a list: the root, the component. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end }}

{{/* An image of Tidegate. Takes a list: the root, the program. */}}
{{- define "tidegate.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.image.repository }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "tidegate.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "tidegate.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* What all pods have in common. Takes the root. */}}
{{- define "tidegate.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
serviceAccountName: {{ include "tidegate.name" . }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "tidegate.podSecurity" . | nindent 2 }}
{{- end }}

{{/* Mounts, and the secret of one program. Takes a list: the root, the secret's name. */}}
{{- define "tidegate.container" -}}
imagePullPolicy: {{ (index . 0).Values.image.pullPolicy }}
securityContext: {{- include "tidegate.containerSecurity" . | nindent 2 }}
envFrom:
  - secretRef: { name: {{ index . 1 | quote }} }
volumeMounts:
  - { name: config, mountPath: /etc/tidegate, readOnly: true }
  - { name: data, mountPath: /var/lib/tidegate }
{{- end }}

{{- define "tidegate.env" -}}
- { name: TIDEGATE_CONFIG, value: /etc/tidegate/tidegate.toml }
- { name: TIDEGATE_NATS__URL, value: {{ .Values.nats.url | quote }} }
{{- end }}

{{/* The state of the process, not of NATS, decides about a restart. */}}
{{- define "tidegate.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: internal }
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /healthz, port: internal }
  periodSeconds: 10
  failureThreshold: 3
readinessProbe:
  httpGet: { path: /readyz, port: internal }
  periodSeconds: 5
  failureThreshold: 2
{{- end }}

{{/* Takes a list: the root, the name of the config map. */}}
{{- define "tidegate.volumes" -}}
- name: config
  configMap: { name: {{ index . 1 }} }
# SQLite files of handlers. A deployment that needs them for longer than a pod lives uses PostgreSQL.
- name: data
  emptyDir: { sizeLimit: 1Gi }
{{- end }}
