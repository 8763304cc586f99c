-- Asks Countersign about every request, over HTTP, before it goes on to the service.

local http = require "resty.http"

local kong = kong
local ngx = ngx

-- Who is asking, for the service behind. Each is what Countersign says or not there at all, never what the client sent.
local IDENTITY = {
  ["x-auth-username"] = true,
  ["x-auth-principal-id"] = true,
  ["x-auth-method"] = true,
  ["x-auth-key-id"] = true,
  ["x-auth-scopes"] = true,
  ["x-auth-content-digest"] = true,
  ["x-auth-decision-id"] = true,
}

-- Why not, for the client.
local DENIAL = {
  "WWW-Authenticate",
  "X-Auth-Error",
  "X-Auth-Decision-Id",
  "Content-Type",
  "Cache-Control",
  "Retry-After",
}

local CANNOT_TELL = '{"type":"about:blank","title":"Service Unavailable","status":503,"code":"unavailable"}'

local Countersign = {
  -- Behind the plugins that answer without credentials (cors, 2000), before all that want to know who is asking.
  PRIORITY = 1360,
  VERSION = "1.0.0",
}

local drop_identity, names_one_host, question, pass, deny, cannot_tell

function Countersign:access(conf)
  drop_identity()
  if conf.open then
    return
  end

  if not names_one_host() then
    return kong.response.exit(400)
  end

  local client = http.new()
  client:set_timeout(conf.timeout)
  -- It is asked once: a second time, after a lost answer, would find the token spent.
  local answer, err = client:request_uri(conf.url, {
    method = "GET",
    headers = question(conf),
    keepalive_timeout = conf.keepalive_timeout,
    keepalive_pool = conf.keepalive_pool,
    ssl_verify = true,
  })

  if not answer then
    kong.log.err("countersign cannot be asked: ", err)
    return cannot_tell()
  end
  if answer.status == 200 then
    return pass(answer)
  end
  if answer.status == 401 or answer.status == 403 or answer.status == 503 then
    return deny(answer)
  end
  kong.log.err("countersign answers ", answer.status)
  return cannot_tell()
end

-- Kong lets names with underscores in, and many back ends read `X_Auth_Username` as `X-Auth-Username`.
function drop_identity()
  for name in pairs(ngx.req.get_headers(0)) do
    if IDENTITY[(name:lower():gsub("_", "-"))] then
      kong.service.request.clear_header(name)
    end
  end
end

-- Kong chooses the route by the client's Host line and hands that on, but a request target that names a host
-- (`GET http://other.example/ HTTP/1.1`) makes that line void (RFC 9112 section 3.2.2): where the two differ, there are two readings.
function names_one_host()
  local line = ngx.var.http_host or ""
  return line:gsub(":%d*$", ""):gsub("%.$", ""):lower() == ngx.var.host
end

-- In Kong's own words: of the client's headers only Authorization is sent.
function question(conf)
  return {
    ["Authorization"] = ngx.req.get_headers(0)["authorization"],
    ["X-Forwarded-Method"] = kong.request.get_method(),
    ["X-Forwarded-Proto"] = kong.request.get_forwarded_scheme(),
    ["X-Forwarded-Host"] = ngx.var.host .. ":" .. kong.request.get_forwarded_port(),
    ["X-Forwarded-Uri"] = ngx.var.request_uri,
    ["X-Real-IP"] = kong.client.get_forwarded_ip(),
    ["X-Required-Scope"] = conf.scope,
  }
end

function pass(answer)
  -- The token is spent: nothing behind this gateway needs it.
  kong.service.request.clear_header("Authorization")
  for name in pairs(IDENTITY) do
    local value = answer.headers[name]
    if value and value ~= "" then
      kong.service.request.set_header(name, value)
    end
  end
end

function deny(answer)
  local headers = {}
  for _, name in ipairs(DENIAL) do
    headers[name] = answer.headers[name]
  end
  return kong.response.exit(answer.status, answer.body, headers)
end

-- Not allowed, and not the client's fault: it may try again, with a new token.
function cannot_tell()
  return kong.response.exit(503, CANNOT_TELL, {
    ["Content-Type"] = "application/problem+json",
    ["Cache-Control"] = "no-store",
    ["Retry-After"] = "1",
    ["X-Auth-Error"] = "unavailable",
  })
end

return Countersign
