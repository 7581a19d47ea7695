"""The token for EKS: what aws-iam-authenticator's README says it has to be."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest

from components.aws import credential
from lbnode.errors import ConfigError

NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> pytest.MonkeyPatch:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", f"{tmp_path}/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/credentials")
    return monkeypatch


def test_a_token_is_a_presigned_request_that_names_the_cluster(surroundings: pytest.MonkeyPatch) -> None:
    surroundings.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    surroundings.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    said = json.loads(credential.exec_credential("samegate", "eu-central-1", NOW))
    assert said["kind"] == "ExecCredential"
    assert said["status"]["expirationTimestamp"] == "2026-11-28T09:14:00Z"
    token = said["status"]["token"]
    assert token.startswith("k8s-aws-v1.")
    encoded = token.removeprefix("k8s-aws-v1.")
    assert "=" not in encoded
    url = urlsplit(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())
    query = parse_qs(url.query)
    assert url.hostname == "sts.eu-central-1.amazonaws.com"
    assert query["Action"] == ["GetCallerIdentity"]
    assert query["X-Amz-Expires"] == ["60"]
    assert "x-k8s-aws-id" in query["X-Amz-SignedHeaders"][0].split(";")
    assert "not-a-secret" not in url.geturl()


def test_missing_credentials_are_told_with_where_to_set_them(surroundings: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="AWS_PROFILE"):
        credential.exec_credential("samegate", "eu-central-1", NOW)
