{{/*
`countersign.toml`: `config`, and what the chart decides itself.
*/}}
{{- define "countersign.toml" -}}
{{- $config := deepCopy .Values.config }}
{{- range $section := list "server" "issuer" "admin" }}
{{- if not (get $config $section) }}{{ $_ := set $config $section dict }}{{ end }}
{{- end }}
{{- $secrets := include "countersign.secretsDir" . }}
{{- $server := get $config "server" }}
{{- $_ := set $server "http_listen" (printf "%s:8080" .Values.listenAddress) }}
{{- $_ := set $server "grpc_listen" (printf "%s:9191" .Values.listenAddress) }}
{{- $_ := set $server "admin_listen" (printf "%s:8081" .Values.listenAddress) }}
{{- $_ := set $server "drain" (printf "%ds" (int .Values.drainSeconds)) }}
{{- if .Values.tls.existingSecret }}
{{- $tls := dict "cert" (printf "%s/tls/tls.crt" $secrets) "key" (printf "%s/tls/tls.key" $secrets) }}
{{- if .Values.tls.clientCa.existingSecret }}{{ $_ := set $tls "client_ca" (printf "%s/client-ca/ca.crt" $secrets) }}{{ end }}
{{- $_ := set $server "tls" $tls }}
{{- end }}
{{- $_ := set (get $config "issuer") "signing_keys_dir" (include "countersign.signingKeysDir" .) }}
{{- if .Values.admin.existingSecret.name }}
{{- $_ := set (get $config "admin") "token_file" (printf "%s/admin/token" $secrets) }}
{{- end }}
{{- /* The names of its Service, besides those that are given. */}}
{{- $admin := get $config "admin" }}
{{- $name := printf "%s-admin" (include "countersign.fullname" .) }}
{{- $hosts := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) }}
{{- $given := get $admin "allowed_hosts" | default list }}
{{- if kindIs "string" $given }}{{ $given = splitList "," $given }}{{ end }}
{{- $_ := set $admin "allowed_hosts" (concat $hosts $given) }}
{{- range $section, $settings := $config }}
{{- if $settings }}
[{{ $section }}]
{{- range $key, $value := $settings }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $key }} = {{ include "countersign.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $table, $inner := $settings }}
{{- if kindIs "map" $inner }}

[{{ $section }}.{{ $table }}]
{{- range $key, $value := $inner }}
{{ $key }} = {{ include "countersign.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}
{{- end }}

{{/*
A value as TOML writes it. Numbers of value files arrive as floating point, or as text of the type json.Number; the strings and
arrays of JSON are TOML, too.
*/}}
{{- define "countersign.tomlValue" -}}
{{- if typeIs "json.Number" . }}{{ toString . }}
{{- else if kindIs "float64" . }}
{{- if eq (floor .) . }}{{ printf "%d" (int64 .) }}{{ else }}{{ toString . }}{{ end }}
{{- else }}{{ toJson . }}
{{- end }}
{{- end }}
