"""A small CDCS site: Django settings, addresses and first users. Runs in the server's own environment, not in ours."""

from celery import Celery

# CDCS saves some things through Celery tasks. They run at once, in the web server itself, without a broker.
celery = Celery("cdcs_site")
celery.config_from_object("django.conf:settings")
celery.autodiscover_tasks()
