IMAGES, SCORES, MAPS = "images", "scores", "maps"
