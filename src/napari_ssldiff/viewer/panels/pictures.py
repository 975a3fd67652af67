"""Lines of small pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QSize
from qtpy.QtGui import QIcon, QImage, QPixmap
from qtpy.QtWidgets import QListWidget, QListWidgetItem

from napari_ssldiff.viewer.field_job import PICTURE


def picture_line(name: str, tip: str) -> QListWidget:
    """A line of pictures, scrolled sideways."""
    made = QListWidget()
    made.setObjectName(name)
    made.setToolTip(tip)
    made.setViewMode(QListWidget.ViewMode.IconMode)
    made.setFlow(QListWidget.Flow.LeftToRight)
    made.setWrapping(False)
    made.setMovement(QListWidget.Movement.Static)
    made.setIconSize(QSize(PICTURE, PICTURE))
    made.setFixedHeight(PICTURE + 46)
    made.setSpacing(2)
    return made


def picture_item(picture: NDArray[np.uint8], text: str) -> QListWidgetItem:
    """``(h, w, 3)`` uint8 with a line of text below it."""
    return QListWidgetItem(icon_of(picture), text)


def icon_of(picture: NDArray[np.uint8]) -> QIcon:
    """``(h, w, 3)`` uint8."""
    h, w = picture.shape[:2]
    image = QImage(np.ascontiguousarray(picture).data, w, h, 3 * w, QImage.Format.Format_RGB888)
    return QIcon(QPixmap.fromImage(image.copy()))
