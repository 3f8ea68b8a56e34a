"""Create the first users. Reads a JSON list of them on standard input; users that exist stay as they are."""

import json
import sys

import django

django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402  (models need the set-up above)

for user in json.load(sys.stdin):
    if User.objects.filter(username=user["name"]).exists():
        continue
    create = User.objects.create_superuser if user["superuser"] else User.objects.create_user
    account = create(user["name"], f"{user['name']}@example.org", user["password"])
    if user["publishes"]:
        account.groups.add(Group.objects.get(name="default"))
