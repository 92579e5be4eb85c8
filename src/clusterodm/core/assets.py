# SPDX-FileCopyrightText: The ClusterODM contributors
# SPDX-License-Identifier: AGPL-3.0-or-later
"""Short names of results, as used by older nodes and WebODM, and their places in `all.zip`."""

from __future__ import annotations

from typing import Final

#: Single files.
FILES: Final = {
    **{
        f"orthophoto.{kind}": f"odm_orthophoto/odm_orthophoto.{kind}"
        for kind in ("tif", "tfw", "png", "wld", "mbtiles", "kmz")
    },
    **{
        f"georeferenced_model.{kind}": f"odm_georeferencing/odm_georeferenced_model.{kind}"
        for kind in ("las", "laz", "ply", "csv")
    },
    "cutline.gpkg": "odm_orthophoto/cutline.gpkg",
    "textured_model.glb": "odm_texturing/odm_textured_model_geo.glb",
    "dsm.tif": "odm_dem/dsm.tif",
    "dtm.tif": "odm_dem/dtm.tif",
    "cameras.json": "cameras.json",
    "shots.geojson": "odm_report/shots.geojson",
    "report.pdf": "odm_report/report.pdf",
    "ground_control_points.geojson": "odm_georeferencing/ground_control_points.geojson",
}
#: Folders that are downloaded as an archive.
FOLDERS: Final = {
    "textured_model.zip": "odm_texturing/",
    "3d_tiles_model.zip": "3d_tiles/model/",
    "3d_tiles_pointcloud.zip": "3d_tiles/pointcloud/",
    "dsm_tiles.zip": "dsm_tiles/",
    "dtm_tiles.zip": "dtm_tiles/",
    "orthophoto_tiles.zip": "orthophoto_tiles/",
}
