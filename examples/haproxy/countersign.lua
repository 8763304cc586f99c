-- Asks Countersign about a request, for haproxy.cfg beside this file.

local WAY = "abns@countersign"
local PATIENCE = 5000 -- milliseconds; the way's own time-outs come first

local IDENTITY = {
    "x-auth-username", "x-auth-principal-id", "x-auth-method", "x-auth-key-id", "x-auth-scopes", "x-auth-content-digest",
    "x-auth-decision-id",
}
local REFUSAL = {
    "www-authenticate", "x-auth-error", "x-auth-decision-id", "content-type", "cache-control", "retry-after",
}

-- What HAProxy knows of the request, and nothing of the client's but Authorization.
local function question(txn)
    local asked = {
        ["x-original-method"] = { txn.sf:method() },
        ["x-original-uri"] = { txn.sf:pathq() },
        ["x-forwarded-proto"] = { txn.sf:ssl_fc() == 1 and "https" or "http" },
        ["x-forwarded-host"] = { txn.sf:req_hdr("host") },
        ["x-real-ip"] = { txn.sf:src() },
        -- One question, one id: if it is asked again, Countersign knows it (`self_signed.attempt_header`).
        ["x-request-id"] = { txn.sf:uuid() },
        -- One question to a connection: where there was one before, HAProxy takes a loss for its right to ask again.
        ["connection"] = { "close" },
    }
    local scope = txn:get_var("txn.required_scope")
    if scope then
        asked["x-required-scope"] = { scope }
    end
    local headers = txn.http:req_get_headers()
    local credentials = headers["authorization"]
    if credentials then
        asked["authorization"] = {}
        for index = 0, #credentials do
            table.insert(asked["authorization"], credentials[index])
        end
    end
    return asked
end

core.register_action("countersign", { "http-req" }, function(txn)
    local answer = core.httpclient():get({
        url = "http://countersign/validate_request",
        dst = WAY,
        headers = question(txn),
        timeout = PATIENCE,
    })
    local said = answer.headers or {}
    if answer.status == 200 then
        local identity = {}
        for _, name in ipairs(IDENTITY) do
            identity[name] = said[name] and said[name][0] or ""
            txn.http:req_set_header(name, identity[name])
        end
        -- A header that does not fit any more (`tune.maxrewrite`) is left out without a word. Part of who is asking is nobody.
        local set = txn.http:req_get_headers()
        for name, value in pairs(identity) do
            if not set[name] or set[name][0] ~= value then
                core.Alert("countersign: no room for " .. name .. ", see tune.maxrewrite")
                return
            end
        end
        txn:set_var("txn.countersign_allows", true)
    elseif answer.status >= 400 and said["x-auth-error"] then
        local reply = txn:reply({ status = answer.status, body = answer.body })
        for _, name in ipairs(REFUSAL) do
            if said[name] then
                reply:add_header(name, said[name][0])
            end
        end
        txn:done(reply)
    end
    -- Anything else is no answer, and haproxy.cfg refuses.
end, 0)
