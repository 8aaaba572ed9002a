"""The colour profile of a slide, as its attributes carry it."""

import base64
from io import BytesIO

from PIL import ImageCms


def described(profile: bytes | None) -> dict[str, str]:
    """Return a profile as attributes: its bytes in base64, and the name that it gives itself; nothing for none.

    >>> described(None)
    {}
    """
    if not profile:
        return {}
    found = {"icc_profile": base64.b64encode(profile).decode()}
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile)))
    except (OSError, ImageCms.PyCMSError):
        name = ""  # the bytes are carried all the same
    return found | ({"icc_description": name.strip()} if name.strip() else {})
