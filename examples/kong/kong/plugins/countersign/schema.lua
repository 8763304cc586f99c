local typedefs = require "kong.db.schema.typedefs"

return {
  name = "countersign",
  fields = {
    { consumer = typedefs.no_consumer },
    { protocols = typedefs.protocols_http },
    { config = {
      type = "record",
      fields = {
        -- Countersign's decision endpoint.
        { url = typedefs.url { required = true, default = "http://127.0.0.1:8080/validate_request" } },
        -- What the key or its principal has to hold too: one scope, or several with spaces.
        { scope = { type = "string" } },
        -- Nobody is asked; identity headers from outside are dropped all the same.
        { open = { type = "boolean", required = true, default = false } },
        -- In milliseconds. A decision takes well under one.
        { timeout = { type = "integer", required = true, default = 500, between = { 1, 60000 } } },
        -- In milliseconds. Kong has to close idle connections before Countersign does (after 75 s).
        { keepalive_timeout = { type = "integer", required = true, default = 30000, between = { 1, 60000 } } },
        { keepalive_pool = { type = "integer", required = true, default = 64, between = { 1, 10000 } } },
      },
    } },
  },
}
