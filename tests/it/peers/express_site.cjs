// A site on Express, with its defaults: express_site.cjs PORT
const express = require("express");

const app = express();
const route = (name) => (_request, response) => response.json({ route: name });
const admin = express.Router();
admin.get("/", route("/admin"));
admin.get("/keys", route("/admin/keys"));

app.get("/healthz", route("/healthz"));
app.use("/admin", admin);
app.get("/orders", route("/orders"));
app.listen(Number(process.argv[2]), "127.0.0.1");
