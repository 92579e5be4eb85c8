# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings from flags, environment and file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterodm.__main__ import main
from clusterodm.commands.serve import plain_switches
from clusterodm.core.effects import NEEDS
from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings, env_name, flag_name, is_switch, load_settings


def test_the_defaults_are_those_of_the_original(tmp_path: Path) -> None:
    settings = load_settings({}, environ={})
    assert (settings.port, settings.secure_port, settings.admin_cli_port, settings.admin_web_port) == (
        3000,
        0,
        8080,
        10000,
    )
    assert (settings.admin_pass.get_secret_value(), settings.log_level, settings.cloud_provider) == (
        "",
        "info",
        "local",
    )
    assert (settings.upload_max_speed, settings.downloads_from_s3, settings.splitmerge) == (0, "", True)
    assert (settings.public_address, settings.flood_limit, settings.stale_uploads_timeout) == ("", 0, 0)
    assert (settings.token.get_secret_value(), settings.debug, settings.ssl_key, settings.asr) == ("", False, "", None)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"port": 1, "admin-web-port": 2, "flood-limit": 3, "debug": true}')
    environ = {"CLUSTERODM_PORT": "4", "CLUSTERODM_ADMIN_WEB_PORT": "5", "HOME": "/x"}
    settings = load_settings({"port": "6", "host": None}, config=file, environ=environ)
    assert (settings.port, settings.admin_web_port, settings.flood_limit, settings.debug) == (6, 5, 3, True)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_has_a_description_a_flag_and_a_variable(field: str) -> None:
    assert Settings.model_fields[field].description
    assert flag_name(field) == field.replace("_", "-")
    assert env_name(field) == f"CLUSTERODM_{field.upper()}"


@pytest.mark.parametrize(
    ("environ", "content", "message"),
    [
        ({"CLUSTERODM_PROT": "1"}, {}, "unknown setting CLUSTERODM_PROT (environment); did you mean CLUSTERODM_PORT?"),
        ({}, {"uplod-max-speed": 1}, "unknown setting uplod-max-speed (FILE); did you mean upload-max-speed?"),
        ({}, {"zzzzzzzz": 1}, "unknown setting zzzzzzzz (FILE)"),
        ({"CLUSTERODM_PORT": "99999"}, {}, "port (environment): Input should be less than or equal to 65535"),
        (
            {},
            {"log-level": "loud"},
            "log-level (FILE): Input should be 'silly', 'debug', 'verbose', 'info', 'warn' or 'error'",
        ),
        ({}, {"public-address": "nonsense"}, "public-address (FILE): must be a URL such as http://maps.example:3000"),
    ],
)
def test_mistakes_are_named_with_their_place(
    tmp_path: Path, environ: dict[str, str], content: dict[str, Any], message: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        load_settings({}, config=file, environ=environ)
    assert str(caught.value).replace(str(file), "FILE").startswith(message)


@pytest.mark.parametrize(("content", "message"), [("{", "is not JSON"), ("[]", "must hold one JSON object")])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_settings({}, config=file, environ={})
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings({}, config=tmp_path / "none", environ={})


def test_what_kubernetes_puts_into_the_environment_is_not_ours() -> None:
    environ = {
        "CLUSTERODM_SERVICE_HOST": "10.0.0.1",
        "CLUSTERODM_SERVICE_PORT": "3000",
        "CLUSTERODM_PORT": "tcp://10.0.0.1:3000",
        "CLUSTERODM_PORT_3000_TCP_ADDR": "10.0.0.1",
        "CLUSTERODM_WEB_SERVICE_HOST": "10.0.0.2",
    }
    assert load_settings({}, environ=environ).port == 3000


def test_a_secret_is_in_no_message_and_no_text() -> None:
    settings = load_settings({"token": "hush-hunter2", "admin_pass": "hush-hunter3"}, environ={})
    assert "hunter" not in repr(settings)
    with pytest.raises(ConfigError) as caught:
        load_settings({"token": ["hush-hunter2"]}, environ={})
    assert "hunter" not in str(caught.value)


def test_nodes_may_be_repeated_or_separated_by_commas() -> None:
    assert load_settings({"node": ["a:1", "b:2"]}, environ={}).node == ["a:1", "b:2"]
    assert load_settings({}, environ={"CLUSTERODM_NODE": "a:1, b:2,"}).node == ["a:1", "b:2"]


#: As the original, and ClusterODX, ship it.
SHIPPED = {
    "port": 3000,
    "secure-port": 0,
    "admin-cli-port": 8080,
    "admin-web-port": 10000,
    "admin-pass": "",
    "cloud-provider": "local",
    "downloads-from-s3": "",
    "splitmerge": True,
    "cluster-address": "",
    "token": "",
    "debug": False,
    "log-level": "info",
    "upload-max-speed": 0,
    "flood-limit": 0,
    "stale-uploads-timeout": 0,
    "ssl-key": "",
    "ssl-cert": "",
    "asr": "",
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def test_the_file_that_the_original_ships_is_accepted_as_it_is(tmp_path: Path) -> None:
    assert load_settings({}, config=write(tmp_path, SHIPPED), environ={}) == load_settings({}, environ={})


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ({"splitmerge": False}, "splitmerge", False),
        ({"port": "3001"}, "port", 3001),
        ({"debug": True}, "debug", True),
        ({"access-log": "/var/log/access.log"}, "access_log", "/var/log/access.log"),
        ({"stale-uploads-timeout": 24}, "stale_uploads_timeout", 24),
    ],
)
def test_that_file_with_changes_means_what_it_says(
    tmp_path: Path, change: dict[str, Any], name: str, value: object
) -> None:
    assert getattr(load_settings({}, config=write(tmp_path, SHIPPED | change), environ={}), name) == value


def test_a_token_or_password_of_digits_is_a_text(tmp_path: Path) -> None:
    settings = load_settings({}, config=write(tmp_path, {"token": 12345, "admin-pass": 678}), environ={})
    assert (settings.token.get_secret_value(), settings.admin_pass.get_secret_value()) == ("12345", "678")


@pytest.mark.parametrize(
    ("flags", "environ", "content"),
    [
        ({"cluster_address": "http://here"}, {}, {}),
        ({}, {"CLUSTERODM_CLUSTER_ADDRESS": "http://here"}, {}),
        ({}, {}, {"cluster-address": "http://here"}),
    ],
)
def test_what_has_no_effect_in_the_original_either_is_refused_with_what_to_use(
    tmp_path: Path, flags: dict[str, Any], environ: dict[str, str], content: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="--public-address"):
        load_settings(flags, config=write(tmp_path, content), environ=environ)


#: Every flag of the original and of ClusterODX, as their help and their file of defaults name them.
COMMAND_LINE = [
    *("-p", "3001", "--secure-port", "0", "--admin-cli-port", "8081", "--admin-web-port=10001", "--admin-pass", "x"),
    *("-c", "local", "--upload-max-speed", "1000", "--downloads-from-s3", "https://bucket.example", "--no-splitmerge"),
    *("--public-address", "http://maps.example:3000", "--flood-limit", "3", "--stale-uploads-timeout", "24"),
    *("--token", "secret", "--debug", "true", "--ssl-key", "k.pem", "--ssl-cert", "c.pem", "--asr", "asr.json"),
    *("--access-log", "access.log", "--splitmerge=true", "--no-splitmerge=true", "--cluster-address", ""),
]


def test_every_flag_of_the_original_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write(tmp_path, SHIPPED))
    monkeypatch.setattr("sys.argv", ["clusterodm", "--config", config, *COMMAND_LINE, "--log-level", "loud"])
    with pytest.raises(SystemExit):
        main()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("clusterodm: log-level (flags): Input should be 'silly'"), "the one thing that is wrong"


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (["--no-splitmerge=true"], ["--no-splitmerge"]),
        (["--no-splitmerge=false"], ["--splitmerge"]),
        (["--splitmerge=false"], ["--no-splitmerge"]),
        (["--splitmerge", "false", "-p", "1"], ["--no-splitmerge", "-p", "1"]),
        (["--debug", "true", "--port=1"], ["--debug", "--port=1"]),
        (["--splitmerge", "--no-splitmerge"], ["--splitmerge", "--no-splitmerge"]),
        (["--debug=perhaps"], ["--debug=perhaps"]),
        (["--token", "--debug=true"], ["--token", "--debug"]),
        (["--log-level=debug", "true"], ["--log-level=debug", "true"]),
    ],
)
def test_a_switch_takes_true_and_false_as_in_the_original(words: list[str], plain: list[str]) -> None:
    assert plain_switches(words) == plain


@pytest.mark.parametrize(
    ("environ", "content", "expected"),
    [
        ({"CLUSTERODM_NO_SPLITMERGE": "true"}, {}, False),
        ({"CLUSTERODM_SPLITMERGE": "0"}, {}, False),
        ({}, {"no-splitmerge": True}, False),
        ({}, {"no-splitmerge": "false"}, True),
        ({"CLUSTERODM_SPLITMERGE": "true"}, {"no-splitmerge": True}, True),
        ({}, {"no-splitmerge": True, "splitmerge": False}, False),
    ],
)
def test_no_before_a_switch_turns_it_round(
    tmp_path: Path, environ: dict[str, str], content: dict[str, Any], expected: bool
) -> None:
    assert load_settings({}, config=write(tmp_path, content), environ=environ).splitmerge is expected


@pytest.mark.parametrize("content", [{"no-splitmerge": True, "splitmerge": True}, {"no-splitmerge": "perhaps"}])
def test_a_switch_that_is_both_or_neither_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="splitmerge"):
        load_settings({}, config=write(tmp_path, content), environ={})


#: Every setting that needs another one: a value that relies on it, and what gives it an effect.
RELIANT: dict[str, tuple[Any, dict[str, Any]]] = {
    "secure_port": (3443, {"ssl_cert": "c.pem", "ssl_key": "k.pem"}),
    "ssl_cert": ("c.pem", {"ssl_key": "k.pem"}),
    "ssl_key": ("k.pem", {"ssl_cert": "c.pem"}),
    "admin_pass": ("hush-operator", {"admin_cli_port": 1, "admin_web_port": 0}),
    "lease_token": ("hush-lease", {"admin_web_port": 1}),
    "token": ("hush-client", {"cloud_provider": "local"}),
    "tokens_file": ("tokens.toml", {"cloud_provider": "tokens"}),
    "lightning_url": ("https://own.example/r", {"cloud_provider": "lightningdev"}),
    "proxy_headers": ("forwarded", {"trusted_proxies": "10.0.0.1"}),
    "machine_poll_interval": (1.0, {"asr": "asr.json"}),
    "results_from_s3": ("redirect", {"asr": "asr.json"}),
    "workers": (2, {"database_url": "postgresql://u:p@h/d"}),
}
#: What takes the effect away where the defaults do not.
WITHOUT: dict[str, list[dict[str, Any]]] = {
    "admin_pass": [{"admin_cli_port": 0, "admin_web_port": 0}],
    "lease_token": [{"admin_web_port": 0}],
    "token": [{"cloud_provider": "tokens", "tokens_file": "t.toml"}, {"cloud_provider": "lightning"}],
    "tokens_file": [{}, {"cloud_provider": "lightning"}],
    "lightning_url": [{}, {"cloud_provider": "tokens", "tokens_file": "t.toml"}],
    "secure_port": [{}, {"ssl_cert": "c.pem"}],
    "results_from_s3": [{}, {"asr": "asr.json", "downloads_from_s3": "https://bucket.example"}],
}
ALONE = [(name, without) for name in NEEDS for without in WITHOUT.get(name, [{}])]
#: Settings that have an effect whatever else is set; a new setting belongs here or above.
FREE = {
    *(
        "port",
        "host",
        "admin_host",
        "admin_pass_file",
        "admin_cli_port",
        "admin_web_port",
        "log_level",
        "log_file",
        "access_log",
        "debug",
    ),
    *("cloud_provider", "asr", "public_address", "trusted_proxies", "splitmerge", "upload_max_speed"),
    *("downloads_from_s3", "flood_limit", "stale_uploads_timeout", "data_dir", "database_url", "node", "nodes_file"),
    *("nodes_dns", "nodes_ca", "node_lost_after", "node_poll_interval", "task_poll_interval", "priority_ageing"),
    *("max_attempts", "max_sending", "prefetch", "parallel_uploads", "results", "keep_finished", "zipurl_max_size"),
    *("zipurl_allow_private", "webhook_allow_private", "upload_idle_timeout", "connection_idle_timeout", "max_files"),
    *("spool_max", "shutdown_delay", "shutdown_grace", "release_running_files", "fast_paths"),
}


def test_of_every_setting_it_is_known_what_it_needs() -> None:
    assert set(RELIANT) == set(NEEDS)
    assert FREE | set(NEEDS) == set(Settings.model_fields)


def in_each_way(folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of `load_settings` that give values by flags, environment and file."""
    content = {flag_name(name): value for name, value in values.items()}
    return [
        {"flags": values, "environ": {}},
        {"flags": {}, "environ": {env_name(name): str(value) for name, value in values.items()}},
        {"flags": {}, "config": write(folder, content), "environ": {}},
    ]


@pytest.mark.parametrize(("name", "without"), ALONE)
def test_a_setting_that_has_no_effect_where_it_stands_is_refused(
    tmp_path: Path, name: str, without: dict[str, Any]
) -> None:
    for arguments in in_each_way(tmp_path, without | {name: RELIANT[name][0]}):
        with pytest.raises(ConfigError) as caught:
            load_settings(**arguments)
        assert f"{flag_name(name)} (" in str(caught.value)
        assert NEEDS[name].text in str(caught.value)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", NEEDS)
def test_with_what_it_needs_it_is_accepted(tmp_path: Path, name: str) -> None:
    value, needed = RELIANT[name]
    for arguments in in_each_way(tmp_path, needed | {name: value}):
        assert name in load_settings(**arguments).model_fields_set


@pytest.mark.parametrize("name", NEEDS)
def test_its_default_may_be_given_anywhere(name: str) -> None:
    default = Settings.model_fields[name].get_default(call_default_factory=True)
    load_settings({name: default} | WITHOUT.get(name, [{}])[0], environ={})


def test_an_authenticator_of_others_may_read_any_setting() -> None:
    flags = {"cloud_provider": "ours", "tokens_file": "t", "token": "hush", "lightning_url": "https://x/r"}
    assert load_settings(flags, environ={}).cloud_provider == "ours"


@pytest.mark.parametrize("name", ["asr", "tokens_file", "nodes_file", "nodes_ca"])
def test_an_empty_text_is_no_file(name: str) -> None:
    assert getattr(load_settings({}, environ={env_name(name): ""}), name) is None


def test_a_fault_in_a_file_is_said_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{\n  "port": 3000,\n}\n')
    with pytest.raises(ConfigError, match=r"config\.json is not JSON: line 2: trailing comma"):
        load_settings({}, config=file, environ={})


def test_switches_are_the_settings_of_yes_and_no() -> None:
    assert {name for name in Settings.model_fields if is_switch(name)} == {
        *("debug", "splitmerge", "zipurl_allow_private", "webhook_allow_private", "release_running_files")
    }
