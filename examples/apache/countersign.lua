-- Asks Countersign about a request, for httpd.conf beside this file.

local socket = require("socket")
local http = require("socket.http")
local ltn12 = require("ltn12")

local REPLICAS = {
    "127.0.0.1:8080",
    -- With more than one replica, a line for each:
    -- "127.0.0.1:8082",
}
http.TIMEOUT = 2 -- seconds
local CONNECT_TIMEOUT = 0.5 -- seconds
local LEFT_ALONE = 1 -- seconds, for a replica that takes no connection

-- The pages of other origins that may call this API from a browser.
local ORIGINS = {
    ["https://app.example.com"] = true,
}

local IDENTITY = {
    "X-Auth-Username", "X-Auth-Principal-Id", "X-Auth-Method", "X-Auth-Key-Id", "X-Auth-Scopes", "X-Auth-Content-Digest",
    "X-Auth-Decision-Id",
}
local REFUSAL = { "WWW-Authenticate", "X-Auth-Error", "X-Auth-Decision-Id", "Cache-Control", "Retry-After" }
-- What the answer to a page of these origins says, and the answer to the question that its browser asks first, without a token.
local TO_PAGES = { ["Access-Control-Expose-Headers"] = "X-Auth-Error, WWW-Authenticate, Retry-After" }
local TO_PREFLIGHTS = {
    ["Access-Control-Allow-Methods"] = "GET, HEAD, POST, PUT, PATCH, DELETE",
    -- What pages send beyond what browsers allow anyway.
    ["Access-Control-Allow-Headers"] = "Authorization, Content-Type",
    -- For so many seconds a browser does not ask again.
    ["Access-Control-Max-Age"] = "600",
}
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

-- httpd drops the headers that Connection names on the way to the back end: it could name the identity. Of the protocols that it may
-- ask for, WebSockets are passed on.
local function pass_on_websockets_alone(r)
    local connection = (r.headers_in["Connection"] or ""):lower()
    local upgrade = (r.headers_in["Upgrade"] or ""):lower()
    local is_websocket = upgrade == "websocket" and connection:find("upgrade", 1, true)
    r.headers_in["Connection"] = is_websocket and "Upgrade" or nil
    r.headers_in["Upgrade"] = is_websocket and "websocket" or nil
end

-- The host by which httpd chose the site, and the port that it listens on. The Host line may say otherwise.
local function authority(r)
    local host = r.hostname or r.server_name
    if host:find(":", 1, true) then
        host = "[" .. host .. "]"
    end
    local default_port = r.is_https and 443 or 80
    return r.port == default_port and host or host .. ":" .. r.port
end

-- The request target without the host that it may name.
local function path_and_query(r)
    local target = r.unparsed_uri:gsub("^%a[%w+.-]*://[^/?#]*", "")
    return target:find("^[/*]") and target or "/" .. target
end

-- Lets pages of the listed origins read the answer. True if this was their browser's question whether they may send a request at all.
local function is_answered_preflight(r)
    r.err_headers_out["Vary"] = "Origin"
    local origin = r.headers_in["Origin"]
    if not (origin and ORIGINS[origin]) then
        return false
    end
    r.err_headers_out["Access-Control-Allow-Origin"] = origin
    for name, value in pairs(TO_PAGES) do
        r.err_headers_out[name] = value
    end
    if r.method ~= "OPTIONS" or (r.headers_in["Access-Control-Request-Method"] or "") == "" then
        return false
    end
    for name, value in pairs(TO_PREFLIGHTS) do
        r.err_headers_out[name] = value
    end
    return true
end

-- Whose turn it is, and until when replicas are left alone; each thread of httpd for itself.
local turn = math.random(#REPLICAS)
local left_alone = {}

local function connected(replica)
    local connection = socket.tcp()
    connection:settimeout(CONNECT_TIMEOUT)
    local host, port = replica:match("^(.*):(%d+)$")
    if connection:connect(host, port) then
        left_alone[replica] = nil
        return connection
    end
    connection:close()
    left_alone[replica] = socket.gettime() + LEFT_ALONE
end

-- A connection to the next replica that takes one, those that are left alone last. Nothing was sent until there is one: later on the
-- token may be spent, and no other replica is asked.
local function open()
    local now = socket.gettime()
    for _, last in ipairs({ false, true }) do
        for _ = 1, #REPLICAS do
            turn = turn % #REPLICAS + 1
            local replica = REPLICAS[turn]
            if ((left_alone[replica] or 0) > now) == last then
                local connection = connected(replica)
                if connection then
                    return connection
                end
            end
        end
    end
    return nil, "no replica takes connections"
end

-- LuaSocket connects by itself what it is given.
local function create()
    local connection, fault = open()
    if not connection then
        return nil, fault
    end
    local already = { connect = function() return 1 end }
    return setmetatable(already, {
        __index = function(_, method)
            return function(_, ...) return connection[method](connection, ...) end
        end,
    })
end

-- What httpd knows of the request, and nothing of the client's but Authorization.
local function ask(r)
    local body = {}
    local _, status, headers = http.request({
        url = "http://countersign/validate_request",
        create = create,
        redirect = false,
        sink = ltn12.sink.table(body),
        headers = {
            ["Authorization"] = r.headers_in["Authorization"],
            ["X-Original-Method"] = r.method,
            ["X-Original-URI"] = path_and_query(r),
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
    -- What some back ends take for a slash and httpd does not, and for a segment that counts for nothing or for the one above.
    if r.uri:find("\\", 1, true) or r.uri:find("/%.?%.?;") then
        return 400
    end
    if is_answered_preflight(r) then
        return 204
    end
    drop_made_up_identity(r)
    pass_on_websockets_alone(r)
    -- For Countersign and the back end alike.
    r.headers_in["Host"] = authority(r)
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
