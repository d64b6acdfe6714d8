<?php

return ['name' => 'Social Media', 'description' => 'Of the release.', 'version' => '1.0', 'author' => 'double'];
