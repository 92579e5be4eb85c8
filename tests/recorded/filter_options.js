// SPDX-FileCopyrightText: The ClusterODM contributors
// SPDX-License-Identifier: AGPL-3.0-or-later
// Answers each line of JSON `options` on stdin with what the node's own check says of it.
// Usage: node filter_options.js <checkout of a node> <file with options as the engine describes them>
const path = require("path");
const fs = require("fs");
const readline = require("readline");
const [root, described] = process.argv.slice(2);
process.argv.length = 2; // the node reads its settings from there
process.chdir(root);
const runner = require(path.join(root, "libs", "odmRunner"));
runner.getJsonOptions = done => done(null, JSON.parse(fs.readFileSync(described, "utf8")));
const info = require(path.join(root, "libs", "odmInfo"));
info.getOptions((error, options) => {
    if (error) throw error;
    process.stdout.write(JSON.stringify(options) + "\n");
    readline.createInterface({ input: process.stdin }).on("line", line =>
        info.filterOptions(line, (error, result) =>
            process.stdout.write(JSON.stringify(error ? { error: error.message } : { result }) + "\n")));
});
