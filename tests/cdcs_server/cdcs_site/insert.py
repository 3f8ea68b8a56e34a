"""Insert very many records at once. Reads on standard input a JSON list of owner, template, workspace and contents.

They come to be as if they had been posted a second apart, except that nobody validates them or gives them a PID.
"""

import datetime
import json
import sys

import django

django.setup()

from core_main_app.components.data.models import Data  # noqa: E402  (models need the set-up above)
from core_main_app.components.template.models import Template  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402

created = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
rows = []
for group in json.load(sys.stdin):
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
