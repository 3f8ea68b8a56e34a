"""Insert very many records at once. Reads on standard input a JSON list of owner, template, workspace and contents.

They come to be as if they had been posted a second apart, except that nobody validates them or gives them a PID. What
describes a blob and has no ``blob/PID/`` yet gets a blob, which has a name and a handle but no bytes.
"""

import datetime
import json
import sys

import django

django.setup()

from core_main_app.components.blob.models import Blob  # noqa: E402  (models need the set-up above)
from core_main_app.components.data.models import Data  # noqa: E402
from core_main_app.components.template.models import Template  # noqa: E402
from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402

created = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
groups = json.load(sys.stdin)
blobs = []
for group in groups:
    owner = User.objects.get(username=group["owner"])
    for content in group["contents"]:
        if "sha1" in content and "blob/PID/" not in content:
            name = f"{content['sha1']}.{content.pop('note', 'csv')}"
            blob = Blob(filename=name, user_id=str(owner.pk), workspace_id=group["workspace"], blob=name)
            blobs.append((blob, content))
for (_, content), blob in zip(
    blobs, Blob.objects.bulk_create([blob for blob, _ in blobs], batch_size=500), strict=True
):
    content["blob/PID/"] = content["/handle/"] = f"{settings.SERVER_URI}/rest/blob/download/{blob.pk}/"
rows = []
for group in groups:
    template = Template.objects.get(pk=group["template"])
    owner = User.objects.get(username=group["owner"])
    for content in group["contents"]:
        title = content.get("title", content.get("sha1"))
        created += datetime.timedelta(seconds=1)
        row = Data(title=title, template=template, user_id=str(owner.pk), workspace_id=group["workspace"])
        row.content = json.dumps(content)
        row.creation_date = row.last_modification_date = row.last_change_date = created
        row.convert_to_dict()
        row.convert_to_file()
        rows.append(row)
Data.objects.bulk_create(rows, batch_size=500)
