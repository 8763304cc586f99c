-- Asks Countersign about a request, for httpd.conf beside this file.

local http = require("socket.http")
local ltn12 = require("ltn12")

local QUESTION = "http://127.0.0.1:8080/validate_request"
http.TIMEOUT = 2 -- seconds

local IDENTITY = {
    "X-Auth-Username", "X-Auth-Principal-Id", "X-Auth-Method", "X-Auth-Key-Id", "X-Auth-Scopes", "X-Auth-Content-Digest",
    "X-Auth-Decision-Id",
}
local REFUSAL = { "WWW-Authenticate", "X-Auth-Error", "X-Auth-Decision-Id", "Cache-Control", "Retry-After" }
local CANNOT_TELL = '{"type":"about:blank","title":"Service Unavailable","status":503,"code":"unavailable"}'

-- `x_auth_username` reads the same as `X-Auth-Username` to many back ends.
local function spelling(name)
    return (name:lower():gsub("_", "-"))
end

local is_identity = {}
for _, name in ipairs(IDENTITY) do
    is_identity[spelling(name)] = true
end

-- Who is asking is Countersign's to say.
local function drop_made_up_identity(r)
    for name in pairs(r:headers_in_table()) do
        if is_identity[spelling(name)] then
            r.headers_in[name] = nil
        end
    end
end

-- What httpd knows of the request, and nothing of the client's but Authorization.
local function ask(r)
    local body = {}
    local _, status, headers = http.request({
        url = QUESTION,
        redirect = false,
        sink = ltn12.sink.table(body),
        headers = {
            ["Authorization"] = r.headers_in["Authorization"],
            ["X-Original-Method"] = r.method,
            ["X-Original-URI"] = r.unparsed_uri,
            ["X-Forwarded-Proto"] = r.is_https and "https" or "http",
            ["X-Forwarded-Host"] = r.headers_in["Host"],
            ["X-Real-IP"] = r.useragent_ip,
            ["X-Required-Scope"] = r.subprocess_env["REQUIRED_SCOPE"],
        },
    })
    return status, headers or {}, table.concat(body)
end

local function refuse(r, status, headers, body)
    for _, name in ipairs(REFUSAL) do
        r.err_headers_out[name] = headers[name:lower()]
    end
    -- After a redirect inside httpd, DONE would be an empty 200.
    if not r.is_initial_req then
        return status
    end
    r.status = status
    r.content_type = "application/problem+json"
    r:puts(body)
    return apache2.DONE
end

function decide(r)
    -- The one character that some back ends take for a slash and httpd does not.
    if r.uri:find("\\", 1, true) then
        return 400
    end
    drop_made_up_identity(r)
    if r.subprocess_env["COUNTERSIGN"] == "not-asked" then
        return apache2.OK
    end
    local status, headers, body = ask(r)
    if status == 200 then
        for _, name in ipairs(IDENTITY) do
            r.headers_in[name] = headers[name:lower()] or ""
        end
        r.subprocess_env["COUNTERSIGN"] = "allowed"
        return apache2.OK
    end
    if type(status) == "number" and status >= 400 and headers["x-auth-error"] then
        return refuse(r, status, headers, body)
    end
    local cannot_tell = { ["x-auth-error"] = "unavailable", ["retry-after"] = "1", ["cache-control"] = "no-store" }
    return refuse(r, 503, cannot_tell, CANNOT_TELL)
end
