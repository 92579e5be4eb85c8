# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Settings from flags, environment and file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clusterodm.core.errors import ConfigError
from clusterodm.settings import Settings, env_name, flag_name, load_settings


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
    assert (settings.upload_max_speed, settings.downloads_from_s3, settings.no_splitmerge) == (0, "", False)
    assert (settings.public_address, settings.flood_limit, settings.stale_uploads_timeout) == ("", 0, 0)
    assert (settings.token.get_secret_value(), settings.debug, settings.ssl_key, settings.asr) == ("", False, "", None)


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"port": 1, "secure-port": 2, "flood-limit": 3, "debug": true}')
    environ = {"CLUSTERODM_PORT": "4", "CLUSTERODM_SECURE_PORT": "5", "HOME": "/x"}
    settings = load_settings({"port": "6", "host": None}, config=file, environ=environ)
    assert (settings.port, settings.secure_port, settings.flood_limit, settings.debug) == (6, 5, 3, True)


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
