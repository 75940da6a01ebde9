"""The bill of materials takes the packages' own words on their licence, also those that SPDX does not list."""

import pytest

from images.sbom import python_components


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ("MIT", {"id": "MIT"}),
        ("MIT OR Apache-2.0", {"value": "MIT OR Apache-2.0"}),
        ("LicenseRef-NVIDIA-Proprietary", {"name": "LicenseRef-NVIDIA-Proprietary"}),
        ("", None),
    ],
)
def test_every_licence_that_a_package_states_is_kept(stated: str, found: dict[str, str] | None) -> None:
    (component,) = python_components([{"name": "A_b", "version": "1.0", "licence": stated}])
    assert component.purl.to_string() == "pkg:pypi/a-b@1.0"
    licences = list(component.licenses)
    assert len(licences) == (found is not None)
    for key, text in (found or {}).items():
        assert getattr(licences[0], key) == text
