<?php

namespace MauticPlugin\MauticSocialBundle;

use Mautic\PluginBundle\Bundle\PluginBundleBase;

class MauticSocialBundle extends PluginBundleBase
{
}
