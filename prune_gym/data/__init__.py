"""Images: data sets by name, folders of image files, splits and their augmentation."""
