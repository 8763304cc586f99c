{{/* The name of the chart in labels. */}}
{{- define "countersign.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* What the names of all resources begin with. Short enough for `-migrate` to follow within 63 characters. */}}
{{- define "countersign.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "countersign.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: countersign
app.kubernetes.io/name: {{ include "countersign.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* By which the pods of the service are found, and those of the migration Job are not. */}}
{{- define "countersign.selectorLabels" -}}
app.kubernetes.io/name: {{ include "countersign.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: service
{{- end }}

{{- define "countersign.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "countersign.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "countersign.image" -}}
{{- $image := .Values.image }}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{/* Where things are in the container. */}}
{{- define "countersign.dataDir" -}}/var/lib/countersign{{- end }}
{{- define "countersign.secretsDir" -}}/run/secrets/countersign{{- end }}
{{- define "countersign.signingKeysDir" -}}
{{- if or .Values.signingKeys.existingSecret .Values.signingKeys.existingClaim }}
{{- include "countersign.secretsDir" . }}/signing-keys
{{- else }}
{{- include "countersign.dataDir" . }}/signing-keys
{{- end }}
{{- end }}

{{/* A setting out of `config`, or nothing: (list . "section" "key"). */}}
{{- define "countersign.setting" -}}
{{- $section := index (index . 0).Values.config (index . 1) | default dict }}
{{- $value := get $section (index . 2) }}
{{- if and (hasKey $section (index . 2)) (not (kindIs "invalid" $value)) }}{{ $value }}{{ end }}
{{- end }}

{{/* Whether the admin listener speaks TLS. */}}
{{- define "countersign.adminTls" -}}
{{- if get (get (.Values.config.admin | default dict) "tls" | default dict) "cert" }}true{{ end }}
{{- end }}

{{/* The value of a variable in `extraEnv`, or nothing: (list . "NAME"). */}}
{{- define "countersign.extraEnvValue" -}}
{{- $name := index . 1 }}
{{- range (index . 0).Values.extraEnv }}
{{- if eq .name $name }}{{ .value | default "" }}{{ end }}
{{- end }}
{{- end }}

{{/* Whether `extraEnv` has a variable; nothing if not: (list . "NAME"). */}}
{{- define "countersign.extraEnvHas" -}}
{{- $name := index . 1 }}
{{- range (index . 0).Values.extraEnv }}
{{- if eq .name $name }}true{{ end }}
{{- end }}
{{- end }}

{{/* The most replicas that there may be. */}}
{{- define "countersign.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end }}
{{- end }}

{{- define "countersign.usesSqlite" -}}
{{- $url := printf "%s%s" (include "countersign.setting" (list . "database" "url")) (include "countersign.extraEnvValue" (list . "COUNTERSIGN_DATABASE__URL")) }}
{{- if hasPrefix "sqlite:" $url }}true{{ end }}
{{- end }}

{{- define "countersign.noncesInMemory" -}}
{{- $url := printf "%s%s" (include "countersign.setting" (list . "nonce" "url")) (include "countersign.extraEnvValue" (list . "COUNTERSIGN_NONCE__URL")) }}
{{- if eq "memory:" $url }}true{{ end }}
{{- end }}

{{/* Whether the replica makes and keeps its own signing keys. */}}
{{- define "countersign.ownSigningKeys" -}}
{{- if not (or .Values.signingKeys.existingSecret .Values.signingKeys.existingClaim (include "countersign.setting" (list . "issuer" "hs256_secret_file"))) }}true{{ end }}
{{- end }}

{{/* Whether anything of the state is the replica's own, so that two at a time would contradict each other. */}}
{{- define "countersign.hasOwnState" -}}
{{- if or (include "countersign.usesSqlite" .) (include "countersign.noncesInMemory" .) (include "countersign.ownSigningKeys" .) .Values.persistence.enabled }}true{{ end }}
{{- end }}

{{/* Whether there has to be a folder to write to. */}}
{{- define "countersign.hasData" -}}
{{- if or (include "countersign.usesSqlite" .) (include "countersign.ownSigningKeys" .) .Values.persistence.enabled }}true{{ end }}
{{- end }}

{{/*
The environment of everything that runs the binary. Secrets come in here and in mounted files, never in the ConfigMap.
*/}}
{{- define "countersign.env" -}}
{{- with .Values.database.existingSecret }}
{{- if .name }}
- name: COUNTERSIGN_DATABASE__URL
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.nonce.existingSecret }}
{{- if .name }}
- name: COUNTERSIGN_NONCE__URL
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "countersign.volumeMounts" -}}
{{- $secrets := include "countersign.secretsDir" . }}
- name: config
  mountPath: /etc/countersign
  readOnly: true
{{- if include "countersign.hasData" . }}
- name: data
  mountPath: {{ include "countersign.dataDir" . }}
{{- end }}
{{- if .Values.signingKeys.existingSecret }}
- name: signing-keys
  mountPath: {{ $secrets }}/signing-keys
  readOnly: true
{{- else if .Values.signingKeys.existingClaim }}
- name: signing-keys
  mountPath: {{ $secrets }}/signing-keys
{{- end }}
{{- if .Values.admin.existingSecret.name }}
- name: admin-token
  mountPath: {{ $secrets }}/admin
  readOnly: true
{{- end }}
{{- if .Values.tls.existingSecret }}
- name: tls
  mountPath: {{ $secrets }}/tls
  readOnly: true
{{- end }}
{{- if .Values.tls.clientCa.existingSecret }}
- name: client-ca
  mountPath: {{ $secrets }}/client-ca
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "countersign.volumes" -}}
- name: config
  configMap:
    name: {{ include "countersign.fullname" . }}
{{- if include "countersign.hasData" . }}
- name: data
  {{- if .Values.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (include "countersign.fullname" .) .Values.persistence.existingClaim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- if .Values.signingKeys.existingSecret }}
- name: signing-keys
  secret:
    secretName: {{ .Values.signingKeys.existingSecret }}
    defaultMode: 0440
{{- else if .Values.signingKeys.existingClaim }}
- name: signing-keys
  persistentVolumeClaim:
    claimName: {{ .Values.signingKeys.existingClaim }}
{{- end }}
{{- with .Values.admin.existingSecret }}
{{- if .name }}
- name: admin-token
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      - key: {{ .key }}
        path: token
{{- end }}
{{- end }}
{{- with .Values.tls }}
{{- if .existingSecret }}
- name: tls
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ .certKey }}
        path: tls.crt
      - key: {{ .privateKeyKey }}
        path: tls.key
{{- end }}
{{- if .clientCa.existingSecret }}
- name: client-ca
  secret:
    secretName: {{ .clientCa.existingSecret }}
    defaultMode: 0440
    items:
      - key: {{ .clientCa.key }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What is asked of every pod of the chart, and of its containers. */}}
{{- define "countersign.podBasics" -}}
automountServiceAccountToken: false
# `COUNTERSIGN_...` in the environment are settings, not addresses of Services.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Where `/livez` is asked. With mTLS the node has no certificate to show, and asks the admin listener. */}}
{{- define "countersign.liveness" -}}
{{- if .Values.tls.clientCa.existingSecret }}
path: /livez
port: admin
{{- else }}
path: {{ include "countersign.setting" (list . "server" "url_prefix") }}/livez
port: http
{{- if .Values.tls.existingSecret }}
scheme: HTTPS
{{- end }}
{{- end }}
{{- end }}
