{{- /* SPDX-FileCopyrightText: The ClusterODM contributors */ -}}
{{- /* SPDX-License-Identifier: AGPL-3.0-or-later */ -}}

{{- define "clusterodm.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "clusterodm.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "clusterodm.labels" -}}
{{ include "clusterodm.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* A value as text: Helm holds whole numbers as floats, and would write large ones as 1.073741824e+11. */ -}}
{{- define "clusterodm.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ printf "%.0f" . }}{{ else }}{{ toString . }}{{ end -}}
{{- end }}

{{- define "clusterodm.hasDatabase" -}}
{{- if or .Values.database.existingSecret .Values.postgresql.enabled }}yes{{ end -}}
{{- end }}

{{- define "clusterodm.check" -}}
{{- if and (gt (int .Values.replicas) 1) (not (include "clusterodm.hasDatabase" .)) }}
{{- fail "several replicas need a database: set database.existingSecret or postgresql.enabled" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (ne .Values.persistence.accessMode "ReadWriteMany") (not .Values.persistence.existingClaim) }}
{{- fail "several replicas need a volume that all can write to: set persistence.accessMode to ReadWriteMany" }}
{{- end }}
{{- if and .Values.postgresql.enabled (not .Values.postgresql.existingSecret) }}
{{- fail "postgresql.existingSecret is needed: a Secret with the key password" }}
{{- end }}
{{- if and .Values.postgresql.enabled .Values.database.existingSecret }}
{{- fail "set database.existingSecret or postgresql.enabled, not both" }}
{{- end }}
{{- if and .Values.autoscaler.config .Values.autoscaler.existingSecret }}
{{- fail "set autoscaler.config or autoscaler.existingSecret, not both" }}
{{- end }}
{{- if and .Values.metricsAnnotations (not .Values.admin.existingSecret) }}
{{- fail "metricsAnnotations need admin.existingSecret: without a password the admin port is closed to others" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.host is needed" }}
{{- end }}
{{- end }}
