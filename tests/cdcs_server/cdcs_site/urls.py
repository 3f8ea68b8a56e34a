"""The addresses of the site: REST, queries and PIDs, as every CDCS site has them."""

from core_main_app.admin import core_admin_site
from django.contrib import admin
from django.urls import include, path

# CDCS pages link to both admin sites by name; without them a page fails, and with it some REST answers.
admin.autodiscover()

urlpatterns = [
    path("staff-admin/", admin.site.urls),
    path("staff-core-admin/", core_admin_site.urls),
    path("", include("core_main_app.urls")),
    path("explore/common/", include("core_explore_common_app.urls")),
    path("pid/", include("core_linked_records_app.urls")),
]
